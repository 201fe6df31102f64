"""Full-precision GGUF -> Q4_K_M, Q5_K_M, ... by llama.cpp's quantizers, in a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.child import Message, run_child
from pipeline.progress import StepProgress
from pipeline.quant_types import QuantType


@dataclass(frozen=True)
class QuantPlan:
    """What a quantization will give, known without doing it: bytes of weights and bits per weight."""

    size: int
    bits_per_weight: float


@dataclass(frozen=True)
class QuantizeJob:
    """Quantize `source` to `target`, which is written in place: the caller renames it when it is whole.

    `earlier` are finished quantizations of the same source, from which equal tensors are copied.
    """

    source: Path
    target: Path
    quant: QuantType
    threads: int
    earlier: tuple[Path, ...] = ()

    def request(self) -> Message:
        """The job as the child process takes it."""
        return {
            **_plan_request(self.source, self.quant),
            "target": str(self.target),
            "threads": self.threads,
            "earlier": [str(path) for path in self.earlier],
        }


def plan_quantization(source: Path, quant: QuantType, log: Path) -> QuantPlan:
    """Ask llama.cpp how large the quantized file will be (a dry run: nothing is read or written)."""
    result = run_child("pipeline.quantize_child", _plan_request(source, quant), log)
    return QuantPlan(int(result["bytes"]), float(result["bits_per_weight"]))


def quantize(job: QuantizeJob, plan: QuantPlan, progress: StepProgress) -> None:
    """Do the job; `plan` is what plan_quantization said of it."""
    with progress.step(f"Quantize to {job.quant.name}", plan.size) as advance:
        run_child(
            "pipeline.quantize_child",
            job.request(),
            job.target.with_suffix(".log"),
            on_message=lambda message: advance(int(message["done"])),
        )


def _plan_request(source: Path, quant: QuantType) -> Message:
    return {"source": str(source), "ftype": quant.ftype, "target": None}
