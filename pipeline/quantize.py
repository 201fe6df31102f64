"""Full-precision GGUF -> Q4_K_M, Q5_K_M, ... by llama.cpp's quantizers, in a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.child import Message, run_child
from pipeline.progress import StepProgress
from pipeline.quant_types import QuantType
from pipeline.tensor_types import MIXTURE, TensorTypes


@dataclass(frozen=True)
class QuantPlan:
    """What a quantization will give, known without doing it: bytes of weights and bits per weight."""

    size: int
    bits_per_weight: float


@dataclass(frozen=True)
class QuantizeJob:
    """Quantize `source` to `target`, which is written in place: the caller renames it when it is whole.

    `earlier` are finished quantizations of the same source, from which equal tensors are copied. What has
    more than `split` bytes becomes several files, named after `target`. `imatrix` weighs the errors.
    """

    source: Path
    target: Path
    quant: QuantType
    threads: int
    earlier: tuple[Path, ...] = ()
    types: TensorTypes = MIXTURE
    split: int | None = None
    imatrix: Path | None = None

    def request(self) -> Message:
        """The job as the child process takes it."""
        return {
            **_plan_request(self.source, self.quant, self.types, self.imatrix),
            "target": str(self.target),
            "threads": self.threads,
            "earlier": [str(path) for path in self.earlier],
            "split": self.split,
        }


def plan_quantization(
    source: Path, quant: QuantType, log: Path, types: TensorTypes = MIXTURE, imatrix: Path | None = None
) -> QuantPlan:
    """Ask llama.cpp how large the quantized file will be (a dry run: nothing is read or written)."""
    result = run_child("pipeline.quantize_child", _plan_request(source, quant, types, imatrix), log)
    return QuantPlan(int(result["bytes"]), float(result["bits_per_weight"]))


def quantize(job: QuantizeJob, plan: QuantPlan, progress: StepProgress) -> list[Path]:
    """Do the job; `plan` is what plan_quantization said of it. Returns the files: `target`, or its shards."""
    return _write(f"Quantize to {job.quant.name}", plan.size, job.request(), job.target, progress)


def split(source: Path, target: Path, limit: int, progress: StepProgress) -> list[Path]:
    """Copy a GGUF into shards of `limit` bytes, named after `target`; returns them."""
    size = source.stat().st_size
    request = {"source": str(source), "target": str(target), "ftype": None, "split": limit}
    return _write(f"Split {source.name}", size, {**request, "threads": 1, "earlier": []}, target, progress)


def _write(title: str, size: int, request: Message, target: Path, progress: StepProgress) -> list[Path]:
    with progress.step(title, size) as advance:
        result = run_child(
            "pipeline.quantize_child",
            request,
            target.with_suffix(".log"),
            on_message=lambda message: advance(int(message["done"])),
        )
    return [Path(path) for path in result["files"]]


def _plan_request(source: Path, quant: QuantType, types: TensorTypes, imatrix: Path | None) -> Message:
    return {
        "source": str(source),
        "ftype": quant.ftype,
        "types": types.request(),
        "imatrix": str(imatrix) if imatrix else None,
        "target": None,
    }
