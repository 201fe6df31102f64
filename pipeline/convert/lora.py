"""Write an adapter as a GGUF LoRA file with llama.cpp's convert_lora_to_gguf.py, in a worker process.

The worker is this module, run as `python -m pipeline.convert.lora`.
"""

from __future__ import annotations

import errno
import json
import os
import runpy
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.dataclass_json import from_json, to_json
from common.worker_process import Message, run_worker, serve
from pipeline.convert.remote_code import forbid_remote_code
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.sources.adapter import PEFT_PREFIX, Adapter, beyond_plain_lora
from pipeline.sources.model_source import WEIGHTS, Source
from pipeline.sources.reading import reading


@dataclass(frozen=True)
class AdapterJob:
    """Write `adapter`, trained on `base`, to the GGUF `target` of `outtype`, which the caller renames."""

    base: Source
    adapter: Adapter
    outtype: str
    target: Path
    name: str
    toolchain: Path


@dataclass(frozen=True)
class WrittenAdapter:
    """The number of weights that a GGUF LoRA changes, and of its parameters."""

    tensors: int
    parameters: int


def reject_inexpressible(adapter: Adapter) -> None:
    """Raise InputError for an adapter that the GGUF LoRA format cannot represent."""
    reason = beyond_plain_lora(adapter)
    if reason:
        raise InputError(
            f"the adapter {adapter.spec!r} cannot be a GGUF LoRA file: {reason}; leave --format away, "
            "which merges it"
        )


def write_adapter(job: AdapterJob, progress: StepProgress) -> WrittenAdapter:
    """Run the job. Raises InputError for another base's adapter, or one that llama.cpp does not support."""
    with progress.step(f"Convert the adapter to {job.outtype}", None):
        result = run_worker("pipeline.convert.lora", to_json(job), job.target.with_suffix(".log"))
    return from_json(WrittenAdapter, result)


def write(request: Message) -> Message:
    """Run an AdapterJob in the worker; return a WrittenAdapter."""
    job = from_json(AdapterJob, request)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all files that are needed are in the two folders
    forbid_remote_code()
    with tempfile.TemporaryDirectory(dir=job.target.parent, prefix="read-") as scratch:
        folder = Path(scratch) / job.name  # the script takes the GGUF's name from it
        what = f"the adapter {job.adapter.spec!r} cannot be a GGUF LoRA file"
        with reading(what, "leave --format away, which merges it"):
            parameters = _write_scaled(job.base, job.adapter, folder)
        _run_script(job, folder)
    return to_json(WrittenAdapter(len(job.adapter.tensors) // 2, parameters))


def _write_scaled(base: Source, adapter: Adapter, folder: Path) -> int:
    """Write the adapter to `folder` as a plain LoRA with a single alpha; return its number of parameters."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapter.weights_file)
    alpha = float(adapter.config.get("lora_alpha") or 1)
    for path, scale in layer_scales(base, adapter).items():
        name = f"{PEFT_PREFIX}{path}.lora_B.weight"
        factor = scale * tensors[name].shape[1] / alpha
        if factor != 1:
            tensors[name] = tensors[name].float() * factor
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
    return sum(tensor.numel() for tensor in tensors.values())


def layer_scales(base: Source, adapter: Adapter) -> dict[str, float]:
    """Return PEFT's scaling of each layer, after checking that the adapter fits the base."""
    from pipeline.merge.checkpoint import Checkpoint
    from pipeline.merge.lora_merger import lora_layers
    from pipeline.merge.meta_model import AdapterWeights, build_base, inject_adapter
    from pipeline.merge.model_class import missing_class
    from pipeline.merge.peft_layer import tuned_layers

    if (model_type := missing_class(base)) is not None:
        found = lora_layers(base, model_type, Checkpoint(base.weight_files()), adapter)
        return {layer.path: layer.scale for layer in found}
    model = build_base(base, {})
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
    wrapped = inject_adapter(model, adapter)
    AdapterWeights(wrapped, adapter, shapes)
    layers = tuned_layers(wrapped, shapes, adapter)
    return {layer.path: layer.module.scaling["default"] for layer in layers}


def _run_script(job: AdapterJob, folder: Path) -> None:
    sys.path[:0] = [str(job.toolchain), str(job.toolchain / "gguf-py")]
    script = job.toolchain / "convert_lora_to_gguf.py"
    options = ["--base", str(job.base.folder), "--outtype", job.outtype, "--outfile", str(job.target)]
    sys.argv = [str(script), *options, str(folder)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except (Exception, SystemExit) as error:  # whatever it refuses with
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        if isinstance(error, SystemExit) and not error.code:
            return
        raise InputError(
            f"llama.cpp cannot make a GGUF LoRA file for the base model {job.base.spec!r} "
            f"({error or type(error).__name__}): leave --format away, which merges the adapter"
        ) from None


if __name__ == "__main__":
    serve(write)
