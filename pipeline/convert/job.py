"""Base + adapter -> a full-precision GGUF, in one streaming pass.

The work is done in a child process (convert_child.py), since llama.cpp's converter needs a `gguf`
package of its own. There is no merged checkpoint on disk and no whole model in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.worker_process import Message, run_worker
from pipeline.progress import StepProgress
from pipeline.quantize.types import MIXTURE, TensorTypes
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source


@dataclass(frozen=True)
class Converted:
    """What the converter wrote: its tensors, its parameters, and how many tensors of it were merged.

    `notes` are lines about the tokenizer, for people, and `settings` what the merged model's config.json says
    otherwise than its base's.
    """

    tensors: int
    parameters: int
    merged: int
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConvertJob:
    """What to convert: `base` with `adapters` merged in, to `target`, a GGUF of `outtype` (f16, bf16, f32).

    `target` is written in place: the caller renames it when it is whole. `types` is what it will be
    quantized with: a choice that no tensor can follow is refused before anything is written. What
    transformers says of the tokenizer, and of the chats in `evaluation`, is written to `tokenizer_reference`.
    """

    base: Source
    adapters: tuple[Adapter, ...]
    outtype: str
    target: Path
    name: str
    toolchain: Path
    threads: int
    qlora_base: str | None = None
    types: TensorTypes = MIXTURE
    tokenizer_reference: Path | None = None
    evaluation: Path | None = None

    def request(self) -> Message:
        """The job as the child process takes it."""
        return {
            "base": self.base.request(),
            "adapters": [[*adapter.source.request(), adapter.weight] for adapter in self.adapters],
            "outtype": self.outtype,
            "target": str(self.target),
            "name": self.name,
            "toolchain": str(self.toolchain),
            "threads": self.threads,
            "qlora_base": self.qlora_base,
            "types": self.types.request(),
            "tokenizer_reference": str(self.tokenizer_reference) if self.tokenizer_reference else None,
            "evaluation": str(self.evaluation) if self.evaluation else None,
        }


def convert(job: ConvertJob, progress: StepProgress) -> Converted:
    """Do the job; raises InputError for what cannot be merged or converted."""
    title = "Merge and convert" if job.adapters else "Convert"
    with progress.step(f"{title} to {job.outtype}", 100) as advance:
        total = [0]  # bytes that the file will have, told by the child once it knows

        def on_message(message: Message) -> None:
            total[0] = int(message["bytes"])

        def on_tick() -> None:
            if total[0] and job.target.exists():
                advance(100 * job.target.stat().st_size // total[0])

        log = job.target.with_suffix(".log")
        result = run_worker("pipeline.convert.worker", job.request(), log, on_message, on_tick)
    return Converted(**{**result, "notes": tuple(result["notes"])})
