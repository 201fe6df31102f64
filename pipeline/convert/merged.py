"""Merge adapters into a base and write a safetensors checkpoint, one tensor at a time, in a worker process.

The worker is this module, run as `python -m pipeline.convert.merged`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.chat_templates import GivenTemplate
from common.dataclass_json import from_json, to_json
from common.worker_process import Message, run_worker, send, serve
from pipeline.convert.model_folder import write_model_files
from pipeline.convert.process import prepare_process
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.quantize.types import group
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.sources.trained_base import Nf4Rounding
from pipeline.tokenizers.folder_templates import read_templates
from pipeline.tokenizers.reference import load_tokenizer, turn_end
from pipeline.tokenizers.select import stage_checkpoint

if TYPE_CHECKING:
    from pipeline.merge.safetensors_writer import PlannedTensor
    from pipeline.merge.tensor_merger import TensorMerger

INDEX = "model.safetensors.index.json"
_CHECKPOINT_NAME = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
FILES = "files"
"""The folder, inside the job's, of the files beside the weights."""


@dataclass(frozen=True)
class MergeJob:
    """Write `base` with `adapters` merged into it to `folder`, in shards of at most `shard_bytes`.

    `outtype` is f16, bf16, f32, or auto for the base's own. With a `rounding` the base is the one that QLoRA
    trained on. Shards named in `finished` are there already. A `chat_template` replaces the model's own.
    """

    base: Source
    adapters: tuple[Adapter, ...]
    outtype: str
    folder: Path
    shard_bytes: int
    threads: int
    finished: tuple[str, ...] = ()
    rounding: Nf4Rounding | None = None
    chat_template: GivenTemplate | None = None


@dataclass(frozen=True)
class MergedCheckpoint:
    """What was written: the shards in order, the files beside them, and the model's type (BF16).

    The rest is as in pipeline.convert.job.Converted; `merged` counts the tensors that the adapters changed.
    """

    shards: tuple[str, ...]
    files: tuple[str, ...]
    dtype: str
    tensors: int
    parameters: int
    merged: int
    notes: tuple[str, ...]
    settings: dict[str, Any]
    template: str


def merge_checkpoint(
    job: MergeJob, progress: StepProgress, on_shard: Callable[[str], None]
) -> MergedCheckpoint:
    """Run the job in a worker process; `on_shard` is called with the name of each finished shard.

    Raises InputError for what cannot be merged.
    """
    with progress.step("Merge into a checkpoint", 100) as advance:

        def on_message(message: Message) -> None:
            if "shard" in message:
                on_shard(message["shard"])
            else:
                advance(100 * message["done"] // max(1, message["total"]))

        result = run_worker("pipeline.convert.merged", to_json(job), job.folder / "merge.log", on_message)
    return from_json(MergedCheckpoint, result)


def shard_names(count: int) -> list[str]:
    """Return the file names of a checkpoint in `count` shards, as transformers gives them."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def is_checkpoint_name(file: str) -> bool:
    """Return whether it is the name of a file of a checkpoint's weights, without folders."""
    return _CHECKPOINT_NAME.fullmatch(file) is not None


def write(request: Message) -> Message:
    """Run a MergeJob in the worker; return a MergedCheckpoint."""
    job = from_json(MergeJob, request)
    prepare_process(job.threads, in_four_bits=job.rounding is not None)
    import torch

    with torch.inference_mode():
        return to_json(write_checkpoint(job))


def write_checkpoint(job: MergeJob) -> MergedCheckpoint:
    """Run a MergeJob in this process."""
    from pipeline.merge.merger import merge_in_sequence
    from pipeline.merge.stored_types import FULL_NAMES, plan_tensors

    merger = merge_in_sequence(job.base, job.adapters, job.rounding)
    planned, dtype = plan_tensors(job.base, merger, job.outtype)
    with tempfile.TemporaryDirectory(dir=job.folder, prefix="read-") as scratch:
        staged = stage_checkpoint(job.base, job.adapters, merger.settings, Path(scratch), job.chat_template)
        stop = _turn_end(staged.folder)
        files = write_model_files(staged.folder, job.base, FULL_NAMES[dtype], stop, job.folder / FILES)
    shards = _write_shards(job, merger, planned)
    merger.finish()
    return MergedCheckpoint(
        shards=tuple(shards),
        files=tuple(files),
        dtype=dtype,
        tensors=len(planned),
        parameters=sum(tensor.elements for tensor in planned.values()),
        merged=len(merger.changed),
        notes=staged.notes,
        settings=merger.settings,
        template=staged.template_origin,
    )


def _turn_end(folder: Path) -> int | None:
    """Return the token that ends an answer under the folder's chat template; None where none is known."""
    if read_templates(folder).default is None:
        return None
    with suppress(InputError):
        return turn_end(load_tokenizer(folder))
    return None


def _write_shards(job: MergeJob, merger: TensorMerger, planned: dict[str, PlannedTensor]) -> list[str]:
    """Write the shards that are not finished, and the index; return the names of all shards."""
    from transformers.core_model_loading import dot_natural_key

    from pipeline.merge.safetensors_writer import write_safetensors
    from pipeline.merge.stored_types import as_stored

    sizes = {name: planned[name].size for name in sorted(planned, key=dot_natural_key)}
    groups = group(sizes, job.shard_bytes)
    names, done, total = shard_names(len(groups)), 0, sum(sizes.values())

    def read(name: str) -> Any:
        value = merger.merge(name) if name in merger.changed else merger.read(name)
        return as_stored(name, value, planned[name])

    def count(size: int) -> None:
        nonlocal done
        done += size
        send({"done": done, "total": total})

    for shard, members in zip(names, groups, strict=True):
        if shard in job.finished:
            for name in merger.changed.intersection(members):
                merger.use(name)
            count(sum(sizes[name] for name in members))
            continue
        partial = job.folder / f"{shard}.partial"
        write_safetensors(partial, {name: planned[name] for name in members}, read, count)
        partial.replace(job.folder / shard)
        send({"shard": shard})
    if len(names) > 1:
        placed = {name: shard for shard, members in zip(names, groups, strict=True) for name in members}
        _write_index(job.folder / INDEX, placed, planned)
    return names


def _write_index(path: Path, placed: dict[str, str], planned: dict[str, PlannedTensor]) -> None:
    metadata = {
        "total_parameters": sum(tensor.elements for tensor in planned.values()),
        "total_size": sum(tensor.size for tensor in planned.values()),
    }
    content = {"metadata": metadata, "weight_map": placed}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    serve(write)
