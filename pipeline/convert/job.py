"""Merge adapters into a base and convert it to a full-precision GGUF, in one streaming pass.

A worker process (worker.py) does it, as llama.cpp's converter needs its own version of the package `gguf`.
There is never a merged checkpoint on disk, nor a whole model in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.chat_templates import GivenTemplate
from common.dataclass_json import from_json, to_json
from common.worker_process import Message, run_worker
from pipeline.progress import StepProgress
from pipeline.quantize.types import MIXTURE, TensorTypes
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.sources.trained_base import Nf4Rounding


@dataclass(frozen=True)
class Converted:
    """The number of tensors and parameters written, and of checkpoint tensors that the adapters changed.

    `notes` are lines about the tokenizer for the user, and `template` says whose the chat template is;
    `settings` are the values in which the merged model's config.json differs from its base's.
    """

    tensors: int
    parameters: int
    merged: int
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    template: str = "the base's"


@dataclass(frozen=True)
class ConvertJob:
    """Convert `base`, with `adapters` merged into it, to `target`, a GGUF of `outtype` (f16, bf16, f32).

    With a `rounding` the base is the one that QLoRA trained on. `target` is written in place: the caller
    renames it when it is complete. `types` are the choices for the later quantization: one that fits no
    tensor is refused before anything is written. transformers' results for the tokenizer, and for the chats
    in `evaluation`, are written to `tokenizer_reference`. A `chat_template` replaces the model's own. With
    `unmerged` the weights are the base's, and only tokenizer and template those of the tuned model.
    """

    base: Source
    adapters: tuple[Adapter, ...]
    outtype: str
    target: Path
    name: str
    toolchain: Path
    threads: int
    rounding: Nf4Rounding | None = None
    types: TensorTypes = MIXTURE
    tokenizer_reference: Path | None = None
    evaluation: Path | None = None
    chat_template: GivenTemplate | None = None
    unmerged: bool = False

    @property
    def merged(self) -> tuple[Adapter, ...]:
        """The adapters whose updates are added to the base's weights."""
        return () if self.unmerged else self.adapters


def convert(job: ConvertJob, progress: StepProgress) -> Converted:
    """Run the job in a worker process. Raises InputError for what cannot be merged or converted."""
    title = "Merge and convert" if job.merged else "Convert"
    with progress.step(f"{title} to {job.outtype}", 100) as advance:
        total = [0]  # bytes of the finished file, which the worker reports once it knows
        advance(0, "starting PyTorch")

        def on_message(message: Message) -> None:
            if "note" in message:
                advance(0, str(message["note"]))
            else:
                total[0] = int(message["bytes"])

        def on_tick() -> None:
            if total[0] and job.target.exists():
                advance(100 * job.target.stat().st_size // total[0])

        log = job.target.with_suffix(".log")
        result = run_worker("pipeline.convert.worker", to_json(job), log, on_message, on_tick)
    return from_json(Converted, result)
