"""Quantize a full-precision GGUF to Q4_K_M, Q5_K_M, ..., byte for byte as llama.cpp, in a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.dataclass_json import from_json, to_json
from common.worker_process import Message, WorkerProcess
from ggufio.ggml import type_name
from pipeline.progress import StepProgress
from pipeline.quantize.tensor_costs import TensorCosts
from pipeline.quantize.types import MIXTURE, QuantType, TensorTypes


@dataclass(frozen=True)
class QuantPlan:
    """What is known of a file beforehand: bytes of weights, bits per weight, tensors' `enum ggml_type`."""

    size: int
    bits_per_weight: float
    types: Mapping[str, int] = field(default_factory=dict)

    @property
    def type_names(self) -> dict[str, str]:
        """The name of each tensor's type, by the tensor's name."""
        return {name: type_name(number) for name, number in self.types.items()}


@dataclass(frozen=True)
class Quantization:
    """A full-precision GGUF to quantize: the type, single tensors' types, and the importance matrix."""

    source: Path
    quant: QuantType
    types: TensorTypes = MIXTURE
    imatrix: Path | None = None


@dataclass(frozen=True)
class QuantizeJob:
    """Quantize as `wanted` to `target`, written in place: the caller renames it when it is complete.

    `earlier` are finished quantizations of the same source, from which equal tensors are copied. A result of
    more than `split` bytes is split into shards, named after `target`.
    """

    wanted: Quantization
    target: Path
    threads: int
    earlier: tuple[Path, ...] = ()
    split: int | None = None


@dataclass(frozen=True)
class SplitJob:
    """Copy the GGUF `source` into shards of at most `limit` bytes, named after `target`."""

    source: Path
    target: Path
    limit: int


@dataclass(frozen=True)
class CostJob:
    """Estimate what each type costs each tensor of `wanted.source`; `sensitivity` is a file of Sensitivity.

    Tensors with a type of the user in `wanted.types` have no choice. Without a `sensitivity` only the
    smallest type of each is found.
    """

    wanted: Quantization
    sensitivity: Path | None
    threads: int


class Quantizer(WorkerProcess):
    """The worker process, which runs one job after another. Its methods raise as WorkerProcess.run does."""

    def __init__(self, log: Path) -> None:
        """Start it; llama.cpp's messages go to the file `log`."""
        super().__init__("pipeline.quantize.worker", log)

    def plan(self, wanted: Quantization) -> QuantPlan:
        """Return how large the quantized file will be: llama.cpp's dry run, which writes nothing."""
        return from_json(QuantPlan, self.run({"plan": to_json(wanted)}))

    def costs(self, job: CostJob, progress: StepProgress) -> TensorCosts:
        """Run the job by tensor_costs.py. Raises InputError for weights that are not finite."""
        with progress.step("Round samples" if job.sensitivity else "Reckon sizes", None) as advance:
            found = self.run({"costs": to_json(job)}, lambda message: advance(int(message["done"])))
        return from_json(TensorCosts, found)

    def quantize(
        self, job: QuantizeJob, plan: QuantPlan, progress: StepProgress, name: str = ""
    ) -> list[Path]:
        """Run the job, whose `plan()` gave `plan`; return the files: `target`, or its shards.

        `name` is the type's in the progress, if it is not the file's main type.
        """
        request = {"quantize": to_json(job)}
        return self._write(f"Quantize to {name or job.wanted.quant.name}", plan.size, request, progress)

    def split(self, source: Path, target: Path, limit: int, progress: StepProgress) -> list[Path]:
        """Copy a GGUF into shards of at most `limit` bytes, named after `target`; return them."""
        request = {"split": to_json(SplitJob(source, target, limit))}
        return self._write(f"Split {source.name}", source.stat().st_size, request, progress)

    def _write(self, title: str, size: int, request: Message, progress: StepProgress) -> list[Path]:
        with progress.step(title, size) as advance:
            result = self.run(request, lambda message: advance(int(message["done"])))
        return [Path(path) for path in result["files"]]

    def __enter__(self) -> Quantizer:
        return self
