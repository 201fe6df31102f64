"""Full-precision GGUF -> Q4_K_M, Q5_K_M, ... through llama_model_quantize, in a child process."""

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
    """Quantize `source` to `target`, which is written in place: the caller renames it when it is whole."""

    source: Path
    target: Path
    quant: QuantType
    threads: int


def plan_quantization(source: Path, quant: QuantType, log: Path) -> QuantPlan:
    """Ask llama.cpp how large the quantized file will be (a dry run: nothing is read or written)."""
    result = run_child("pipeline.quantize_child", _request(source, None, quant, 1), log)
    return QuantPlan(int(result["bytes"]), float(result["bits_per_weight"]))


def quantize(job: QuantizeJob, plan: QuantPlan, progress: StepProgress) -> None:
    """Do the job; `plan` is what plan_quantization said of it."""
    with progress.step(f"Quantize to {job.quant.name}", plan.size) as advance:
        run_child(
            "pipeline.quantize_child",
            _request(job.source, job.target, job.quant, job.threads),
            job.target.with_suffix(".log"),
            on_tick=lambda: advance(job.target.stat().st_size if job.target.exists() else 0),
        )


def _request(source: Path, target: Path | None, quant: QuantType, threads: int) -> Message:
    return {
        "source": str(source),
        "target": str(target) if target else None,
        "ftype": quant.ftype,
        "threads": threads,
    }
