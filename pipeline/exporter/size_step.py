"""--quant auto --max-size: the types of the tensors that fit a size and lose least."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.worker_process import WorkerDied
from ggufio.ggml import type_name
from pipeline.certificate.subject import Subject
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation.sensitivity import MeasuredSensitivity, SensitivityJob, measure_sensitivity
from pipeline.exporter.auto_quant import (
    CANDIDATES_DIR,
    Choice,
    Trial,
    TrialCache,
    measure,
    question,
)
from pipeline.exporter.certify_step import CertificateStep
from pipeline.exporter.config import ExportConfig
from pipeline.manifest import ALLOCATIONS, AUTO_OPTION, Record
from pipeline.progress import StepProgress
from pipeline.quantize.allocation import allocate, smallest_size, tensor_types
from pipeline.quantize.job import CostJob, Quantization, QuantizeJob, Quantizer, QuantPlan
from pipeline.quantize.size_goal import SizeGoal
from pipeline.quantize.tensor_costs import TensorCosts, file_size, total_cost
from pipeline.quantize.types import TensorTypes, quant_type, ready_types

MAX_TRIALS = 6
"""Files that are measured: the allocation, the ready-made types of least estimated cost, and the largest."""

_VECTORS = ("_norm.weight", ".bias")  # llama.cpp never quantizes them
_SHARD_BYTES = 512  # a further shard's header and padding at most


@dataclass(frozen=True)
class Candidate:
    """A file that fits: its type's name, its exact bytes, and its estimated cost in nats a token."""

    name: str
    wanted: Quantization
    types: Mapping[str, str]
    size: int
    cost: float

    @property
    def key(self) -> str:
        """The name with a digest of the types, for resuming."""
        digest = hashlib.sha256(json.dumps(self.types, sort_keys=True).encode()).hexdigest()
        return f"{self.name} {digest[:12]}"


@dataclass(frozen=True)
class SizeStep:
    """The choice of types for the size in one export; `work` is the workspace's folder."""

    config: ExportConfig
    certifying: CertificateStep
    work: Path
    quantizer: Quantizer

    def choose(self, full: Path, record: Record, progress: StepProgress, imatrix: Path | None = None) -> None:
        """Store the choice in the record; `full` is the full-precision GGUF.

        Raises InputError, with the smallest size that can be had, for a smaller one.
        """
        goal = self.config.goal
        assert goal is not None
        wanted = Quantization(full, quant_type("Q8_0"), self.config.tensor_types, imatrix)
        sizes = self.quantizer.costs(CostJob(wanted, None, self.config.threads), progress)
        limit = goal.limit(sizes.header, sizes.weights)
        self._reject_too_small(goal, limit, sizes, weighed=imatrix is not None)
        subject = replace(self.certifying.subject(full, record), depth="full")
        found = self._sensitivity(subject, progress)
        costs = self.quantizer.costs(CostJob(wanted, self._sensitivity_file, self.config.threads), progress)
        ready = self._ready(wanted, costs)
        own = self._own(wanted, costs, limit, ready)
        candidates = [own, *promising([one for one in ready if one.size <= limit])]
        trials = list(self._measured(candidates, subject, limit, progress))
        best = min(trials, key=lambda trial: trial.distance)
        reason = f"the nearest to the tuned model of those that fit {goal.option}"
        choice = Choice(best.type, reason, tuple(sorted(trials, key=lambda trial: trial.size)))
        record.options[AUTO_OPTION] = {
            "asked": question(self.config),
            **choice.to_json(),
            "limit": limit,
            "estimate": asdict(found),
            "note": estimate_note(found, len(costs.options)),
        }
        if best.type == own.name:
            record.options.setdefault(ALLOCATIONS, {})[own.name] = {
                "file_type": own.wanted.quant.name,
                "limit": limit,
                "tensors": dict(own.types),
            }

    @property
    def _sensitivity_file(self) -> Path:
        return self.certifying.scratch / "sensitivity.npz"

    def _sensitivity(self, subject: Subject, progress: StepProgress) -> MeasuredSensitivity:
        """Return what was measured, perhaps by an interrupted run of the same export."""
        done = self._sensitivity_file.with_suffix(".json")
        key = [str(question(self.config)["eval"]), subject.full.stat().st_mtime_ns]
        if done.is_file():
            content = json.loads(done.read_text(encoding="utf-8"))
            if content["key"] == key:
                return MeasuredSensitivity(**content["measured"])
        self._sensitivity_file.unlink(missing_ok=True)
        job = SensitivityJob(subject, self.config.calibrate, self._sensitivity_file)
        try:
            found = measure_sensitivity(job, progress)
        except WorkerDied as error:
            if not self._sensitivity_file.is_file():
                raise
            found = MeasuredSensitivity(0, 0, 0.0, error.reason)
        done.write_text(json.dumps({"key": key, "measured": asdict(found)}), encoding="utf-8")
        return found

    def _ready(self, wanted: Quantization, costs: TensorCosts) -> list[Candidate]:
        """Return llama.cpp's types as candidates, of any size, and each set of types once."""
        found: dict[str, Candidate] = {}
        for quant in ready_types(with_imatrix=wanted.imatrix is not None):
            one = replace(wanted, quant=quant)
            try:
                types = _names(self.quantizer.plan(one))
                size, cost = file_size(costs, types), total_cost(costs, types)
            except (InputError, StopIteration):  # a tensor without importance, or a type that is not on offer
                continue
            found.setdefault(json.dumps(types), Candidate(quant.name, one, types, size, cost))
        return list(found.values())

    def _own(
        self, wanted: Quantization, costs: TensorCosts, limit: int, ready: Sequence[Candidate]
    ) -> Candidate:
        """Return the allocation for the limit."""
        goal = self.config.goal
        assert goal is not None
        chosen = allocate(costs.options, limit - costs.header - costs.rest - self._shards_reserve(limit))
        types = {name: option.type for name, option in chosen.items()}
        size = file_size(costs, types)
        nearest = min(ready, key=lambda one: abs(one.size - size)).wanted.quant if ready else wanted.quant
        return Candidate(
            goal.name,
            replace(wanted, quant=nearest, types=_explicit(wanted.types, {**costs.others, **types})),
            {**costs.others, **types},
            size,
            sum(option.cost for option in chosen.values()),
        )

    def _reject_too_small(self, goal: SizeGoal, limit: int, sizes: TensorCosts, *, weighed: bool) -> None:
        used = sizes.header + sizes.rest + self._shards_reserve(limit)
        smallest = used + smallest_size(sizes.options)
        if smallest <= limit:
            return
        least = goal.needed(smallest, sizes.header, sizes.weights)
        hint = "" if weighed else ", or --calibrate FILE.jsonl, which allows types of 2 bits"
        raise InputError(
            f"{goal.option} is too small: the smallest file of this model has {smallest / 1e6:.1f} MB; "
            f"use {goal.option.split()[0]} {least} or more{hint}"
        )

    def _shards_reserve(self, limit: int) -> int:
        split = self.config.split_bytes
        return 0 if split is None or split >= limit else _SHARD_BYTES * (2 * limit // split + 2)

    def _measured(
        self, candidates: Sequence[Candidate], subject: Subject, limit: int, progress: StepProgress
    ) -> Iterator[Trial]:
        """Yield the trial of each candidate; one of them that llama.cpp cannot run is left out."""
        cache, errors = TrialCache(subject), []
        for one in candidates:
            if one.key not in cache.trials:
                try:
                    cache.add(measure(one.name, self._make(one, limit, progress), subject, progress), one.key)
                except PipelineError as error:
                    errors.append(error)
                    continue
            yield cache.trials[one.key]
        if len(errors) == len(candidates):
            raise errors[0]

    def _make(self, one: Candidate, limit: int, progress: StepProgress) -> Path:
        folder = self.work / CANDIDATES_DIR
        folder.mkdir(exist_ok=True)
        path = folder / self.config.quantized_name(one.name)
        partial, earlier = path.with_name(f"{path.name}.partial"), tuple(folder.glob("*.gguf"))
        job, plan = (
            QuantizeJob(one.wanted, partial, self.config.threads, earlier),
            self.quantizer.plan(one.wanted),
        )
        if _names(plan) != one.types:
            raise PipelineError(f"llama.cpp gives {one.name} other types than were asked for")
        self.quantizer.quantize(job, plan, progress, one.name)
        check_size(one.name, partial.stat().st_size, limit)
        return partial.replace(path)


def _names(plan: QuantPlan) -> dict[str, str]:
    return {name: type_name(number) for name, number in plan.types.items()}


def check_size(name: str, size: int, limit: int) -> None:
    """Raise PipelineError for a file that is larger than was reckoned."""
    if size > limit:
        raise PipelineError(f"{name} has {size} bytes, and {limit} are allowed: report this as a mistake")


def quantization(
    record: Record, quant: str, full: Path, types: TensorTypes, imatrix: Path | None
) -> Quantization:
    """Return how to make the type of that name: an allocation in the record, or one of llama.cpp's types.

    `types` are the user's.
    """
    found = record.options.get(ALLOCATIONS, {}).get(quant)
    if found is None:
        return Quantization(full, quant_type(quant), types, imatrix)
    return Quantization(full, quant_type(found["file_type"]), _explicit(types, found["tensors"]), imatrix)


def _explicit(user: TensorTypes, types: Mapping[str, str]) -> TensorTypes:
    """Return the choices that give each tensor its type; the user's own go first."""
    ours = tensor_types({name: dtype for name, dtype in types.items() if not name.endswith(_VECTORS)})
    return TensorTypes(
        (*user.overrides, *ours.overrides), user.output or ours.output, user.embedding or ours.embedding
    )


def promising(ready: Sequence[Candidate]) -> list[Candidate]:
    """Return the ready-made types to measure: those of least estimated cost, and the largest."""
    ranked = sorted(ready, key=lambda one: one.cost)
    chosen, others = ranked[: MAX_TRIALS - 2], ranked[MAX_TRIALS - 2 :]
    return [*chosen, *sorted(others, key=lambda one: one.size)[-1:]]


def estimate_note(found: MeasuredSensitivity, matrices: int) -> str:
    """Return of how many matrices the costs are only those of their errors, and why; empty if of none."""
    if found.tensors >= matrices:
        return ""
    count = f"{matrices - found.tensors} of {matrices}" if found.tensors else "all"
    why = f" ({found.reason.rstrip('.')})" if found.reason else ""
    return f"of {count} matrices only the rounding errors themselves are known{why}"
