"""--quant auto: choose the smallest type, or the fastest on this machine, that preserves the tuning."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.certificate import Finding
from common.files import sha256, write_atomically
from pipeline.certificate.runner.certify import certify
from pipeline.certificate.scoring.metrics import GOOD_KL, GOOD_SURVIVAL
from pipeline.certificate.subject import Subject
from pipeline.errors import InputError, PipelineError
from pipeline.exporter.certify_step import CertificateStep
from pipeline.exporter.config import ExportConfig
from pipeline.manifest import AUTO_OPTION, Record
from pipeline.progress import StepProgress
from pipeline.quantize.job import Quantization, QuantizeJob, Quantizer
from pipeline.quantize.ternary import TERNARY_CANDIDATES
from pipeline.quantize.types import AUTO, CANDIDATES, quant_type
from pipeline.sources.model_source import Source, read_json
from pipeline.sources.ternary import find_ternary

MakeFile = Callable[[str], Path]
"""Quantizes to a type and returns the file."""


@dataclass(frozen=True)
class Trial:
    """The measurements of one type. `survival` and its interval are None where they are unknown.

    `size` is in bytes, `mean_kl` in nats per token (None where it is NaN), `decode` and `prefill` in tokens
    per second.
    """

    type: str
    size: int
    survival: float | None
    low: float | None
    high: float | None
    mean_kl: float | None
    prefill: float
    decode: float

    @property
    def passes(self) -> bool:
        """True when the tuning survives with confidence: the interval's lower bound is high enough.

        Where the survival is unknown, the file must be close to the unquantized model.
        """
        return self.distance <= GOOD_KL if self.low is None else self.low >= GOOD_SURVIVAL

    @property
    def distance(self) -> float:
        """`mean_kl`, infinite where it is None."""
        return math.inf if self.mean_kl is None else self.mean_kl


@dataclass(frozen=True)
class Choice:
    """The chosen type, the reason, and all trials, smallest first."""

    chosen: str
    reason: str
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the choice for the manifest."""
        return {
            "chosen": self.chosen,
            "reason": self.reason,
            "tried": [asdict(trial) for trial in self.trials],
        }


def choose_type(
    subject: Subject, sizes: Mapping[str, int], make: MakeFile, prefer: str, progress: StepProgress
) -> Choice:
    """Try types in order of `sizes`, their files' bytes, and choose one.

    For "size" the first that passes ends the search, for "speed" all are tried. Raises PipelineError when one
    cannot be measured. The tuned model's logits are computed once and cached in the subject's scratch folder.
    """
    return choose(_trials(subject, sizes, make, progress), prefer)


def choose(trials: Iterable[Trial], prefer: str) -> Choice:
    """Choose among trials, consuming no more of them than needed."""
    done: list[Trial] = []
    for trial in trials:
        done.append(trial)
        if trial.passes and prefer == "size":
            break
    return Choice(*_pick(done, prefer), tuple(done))


def _trials(
    subject: Subject, sizes: Mapping[str, int], make: MakeFile, progress: StepProgress
) -> Iterator[Trial]:
    cache = TrialCache(subject)
    for quant in sorted(sizes, key=lambda name: sizes[name]):
        if quant not in cache.trials:
            cache.add(measure(quant, make(quant), subject, progress))
        yield cache.trials[quant]


def measure(quant: str, path: Path, subject: Subject, progress: StepProgress) -> Trial:
    """Return the trial of a file; `quant` is its type. Raises PipelineError when it cannot be measured."""
    tried = replace(subject, files={path.name: path})
    certificate = certify(tried, progress, names=("quality",), hashes={})
    found = [finding for finding in certificate.findings if finding.file in ("", path.name)]
    return trial_of(quant, path, found)


class TrialCache:
    """The trials of this model so far, stored in the scratch folder, for resuming."""

    def __init__(self, subject: Subject) -> None:
        files = [subject.full, *([subject.evaluation] if subject.evaluation else [])]
        self._key = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        self._path = subject.scratch / "trials-by-name.json"
        self.trials: dict[str, Trial] = {}
        if self._path.is_file():
            content = json.loads(self._path.read_text(encoding="utf-8"))
            known = content["trials"] if content["key"] == self._key else {}
            self.trials = {name: Trial(**fields) for name, fields in known.items()}

    def add(self, trial: Trial, name: str = "") -> None:
        """Store a trial, by its type or by a name that tells its types of tensors too."""
        self.trials[name or trial.type] = trial
        content = {"key": self._key, "trials": {key: asdict(one) for key, one in self.trials.items()}}
        write_atomically(self._path, json.dumps(content))


def trial_of(quant: str, path: Path, found: Sequence[Finding]) -> Trial:
    """Return the measurements in the findings of the check `quality`. Raises PipelineError without them."""
    findings = {finding.name: finding for finding in found}
    if not {"quantization", "speed"} <= findings.keys():
        why = next((finding.summary for finding in found if finding.name != "speed"), "nothing was found")
        raise PipelineError(
            f"--quant auto cannot measure {quant} ({why.rstrip('.')}): name the types with --quant instead"
        )
    survival = findings["survival"].figures.get("kept") or {}
    known = bool(survival) and not survival["doubt"]
    speed = findings["speed"].figures
    return Trial(
        quant,
        path.stat().st_size,
        survival["value"] if known else None,
        survival["low"] if known else None,
        survival["high"] if known else None,
        findings["quantization"].figures["mean_kl"],
        speed["prefill"],
        speed["decode"],
    )


def _pick(trials: list[Trial], prefer: str) -> tuple[str, str]:
    """Return the chosen type and the reason."""
    passing = [trial for trial in trials if trial.passes]
    if not passing:
        best = min(trials, key=lambda trial: trial.distance)
        return best.type, "no type keeps enough; this one is the nearest to the tuned model"
    if prefer == "speed":
        fastest = max(passing, key=lambda trial: trial.decode)
        return fastest.type, "the fastest here of those that keep enough"
    smallest = min(passing, key=lambda trial: trial.size)
    return smallest.type, "the smallest that keeps enough"


CANDIDATES_DIR = "tried"
"""The workspace's folder of candidates; the tensors of the chosen one are copied from there."""


@dataclass(frozen=True)
class AutoStep:
    """The choice of a type in one export; `work` is the workspace's folder."""

    config: ExportConfig
    certifying: CertificateStep
    work: Path
    quantizer: Quantizer

    def choose(self, full: Path, record: Record, progress: StepProgress, imatrix: Path | None = None) -> None:
        """Store the choice in the record; `full` is the full-precision GGUF. Raises PipelineError.

        The candidates are quantized with the importance matrix `imatrix`, as the chosen one will be.
        """
        (self.work / CANDIDATES_DIR).mkdir(exist_ok=True)
        types = self.config.tensor_types
        base, adapters = self.certifying.base, self.certifying.adapters
        is_ternary = not adapters and find_ternary(base) is not None
        names = TERNARY_CANDIDATES if is_ternary else CANDIDATES
        wanted = {name: Quantization(full, quant_type(name), types, imatrix) for name in names}
        plans = {name: self.quantizer.plan(one) for name, one in wanted.items()}

        def make(name: str) -> Path:
            path = self.work / CANDIDATES_DIR / self.config.quantized_name(name)
            partial, earlier = path.with_name(f"{path.name}.partial"), tuple(path.parent.glob("*.gguf"))
            job = QuantizeJob(wanted[name], partial, self.config.threads, earlier)
            self.quantizer.quantize(job, plans[name], progress)
            return partial.replace(path)

        sizes = {name: plan.size for name, plan in plans.items()}
        subject = replace(
            self.certifying.subject(full, record), depth="full"
        )  # quantizing takes longer than the checks
        choice = choose_type(subject, sizes, make, self.config.prefer, progress)
        record.options[AUTO_OPTION] = {"asked": question(self.config), **choice.to_json()}


def reject_without_template(config: ExportConfig, sources: Sequence[Source]) -> None:
    """Raise InputError for AUTO, which compares answers, when no source has a chat template."""
    has_template = config.given_template is not None or any(_has_template(s.folder) for s in sources)
    if AUTO in config.quants and not has_template:
        raise InputError(
            "--quant auto chats with the candidates, and neither base nor adapter has a chat template: "
            "give one with --template FILE|NAME, or name the types with --quant"
        )


def _has_template(folder: Path) -> bool:
    """Return whether the folder has a chat template where the converter looks for it."""
    if any((folder / file).is_file() for file in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(read_json(path, "the tokenizer").get("chat_template"))


def remove_candidates(work: Path) -> None:
    """Remove the candidates of an earlier run, which are not recorded as complete."""
    shutil.rmtree(work / CANDIDATES_DIR, ignore_errors=True)


def resolve_auto(config: ExportConfig, record: Record) -> ExportConfig:
    """Return the configuration with AUTO replaced by the recorded choice, if its question was the same."""
    choice = record.options.get(AUTO_OPTION)
    if AUTO not in config.quants or not choice or choice["asked"] != question(config):
        return config
    return replace(config, quants=tuple(choice["chosen"] if q == AUTO else q for q in config.quants))


def auto_notes(record: Record) -> Sequence[str]:
    """Return the recorded choice as lines for the user: each type that was tried, and the chosen one."""
    choice = record.options.get(AUTO_OPTION)
    return list(_trial_lines(choice)) if choice else ()


def question(config: ExportConfig) -> dict[str, Any]:
    """Return the options that the choice answers, for the record."""
    evaluation = sha256(config.evaluation) if config.evaluation else None
    goal = config.goal.describe() if config.goal else {}
    return {"prefer": config.prefer, "eval": evaluation, **goal}


def _trial_lines(choice: dict[str, Any]) -> Iterator[str]:
    for trial in choice["tried"]:
        kept = "survival cannot be told"
        if trial["survival"] is not None:
            kept = f"keeps {trial['survival']:.1%} ({trial['low']:.1%} to {trial['high']:.1%})"
        far = "KL unknown" if trial["mean_kl"] is None else f"KL {trial['mean_kl']:.3f}"
        yield (
            f"auto tried {trial['type']}: {trial['size'] / 1e6:.1f} MB, {kept}, {far}, "
            f"writes {trial['decode']:.0f} tokens/s"
        )
    yield f"auto chose {choice['chosen']}: {choice['reason']}"
    if choice.get("note"):
        yield f"auto: {choice['note']}"
