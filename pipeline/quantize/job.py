"""Full-precision GGUF -> Q4_K_M, Q5_K_M, ... by llama.cpp's quantizers, in a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.worker_process import Message, WorkerProcess
from pipeline.progress import StepProgress
from pipeline.quantize.types import MIXTURE, QuantType, TensorTypes


@dataclass(frozen=True)
class QuantPlan:
    """What a quantization will give, known without doing it: bytes of weights and bits per weight."""

    size: int
    bits_per_weight: float


@dataclass(frozen=True)
class Quantization:
    """How a full-precision GGUF is quantized: to which type, with which exceptions, by which importance."""

    source: Path
    quant: QuantType
    types: TensorTypes = MIXTURE
    imatrix: Path | None = None

    def request(self) -> Message:
        """It as the child process takes it."""
        return {
            "source": str(self.source),
            "ftype": self.quant.ftype,
            "types": self.types.request(),
            "imatrix": str(self.imatrix) if self.imatrix else None,
        }


@dataclass(frozen=True)
class QuantizeJob:
    """Do `wanted` to `target`, which is written in place: the caller renames it when it is whole.

    `earlier` are finished quantizations of the same source, from which equal tensors are copied. What has
    more than `split` bytes becomes several files, named after `target`.
    """

    wanted: Quantization
    target: Path
    threads: int
    earlier: tuple[Path, ...] = ()
    split: int | None = None

    def request(self) -> Message:
        """The job as the child process takes it."""
        return {
            **self.wanted.request(),
            "target": str(self.target),
            "threads": self.threads,
            "earlier": [str(path) for path in self.earlier],
            "split": self.split,
        }


class Quantizer(WorkerProcess):
    """The child process: it does one job after another."""

    def __init__(self, log: Path) -> None:
        """`log` is where llama.cpp's words go."""
        super().__init__("pipeline.quantize.worker", log)

    def plan(self, wanted: Quantization) -> QuantPlan:
        """Ask llama.cpp how large the quantized file will be (a dry run: nothing is read or written)."""
        result = self.run({**wanted.request(), "target": None})
        return QuantPlan(int(result["bytes"]), float(result["bits_per_weight"]))

    def quantize(self, job: QuantizeJob, plan: QuantPlan, progress: StepProgress) -> list[Path]:
        """Do the job; `plan` is what `plan` said of it. Returns the files: `target`, or its shards."""
        return self._write(f"Quantize to {job.wanted.quant.name}", plan.size, job.request(), progress)

    def split(self, source: Path, target: Path, limit: int, progress: StepProgress) -> list[Path]:
        """Copy a GGUF into shards of `limit` bytes, named after `target`; returns them."""
        request: Message = {"source": str(source), "target": str(target), "ftype": None, "split": limit}
        request |= {"threads": 1, "earlier": []}
        return self._write(f"Split {source.name}", source.stat().st_size, request, progress)

    def _write(self, title: str, size: int, request: Message, progress: StepProgress) -> list[Path]:
        with progress.step(title, size) as advance:
            result = self.run(request, lambda message: advance(int(message["done"])))
        return [Path(path) for path in result["files"]]

    def __enter__(self) -> Quantizer:
        return self
