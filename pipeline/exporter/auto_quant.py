"""--quant auto: the smallest type, or the fastest here, in which the tuning survives."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.files import sha256, write_atomically
from pipeline.certificate.finding import Finding
from pipeline.certificate.runner.certify import certify
from pipeline.certificate.scoring.metrics import GOOD_KL, GOOD_SURVIVAL
from pipeline.certificate.subject import Subject
from pipeline.errors import InputError, PipelineError
from pipeline.exporter.certify_step import CertificateStep
from pipeline.exporter.config import ExportConfig
from pipeline.manifest import Record
from pipeline.progress import StepProgress
from pipeline.quantize.job import Quantization, QuantizeJob, Quantizer
from pipeline.quantize.types import AUTO, CANDIDATES, quant_type
from pipeline.sources.model_source import Source, read_json

Make = Callable[[str], Path]
"""Quantizes to a type and returns the file, which the chooser may remove."""


@dataclass(frozen=True)
class Trial:
    """One type that was tried. `survival` and its interval are None where they cannot be told.

    `size` is in bytes, `mean_kl` in nats a token (None where it is no number), `decode` and `prefill` in
    tokens a second.
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
    def good(self) -> bool:
        """Whether the tuning survives: for certain, not just by the luck of these prompts.

        Where there is no tuning to speak of, the file must be near to the unquantized model.
        """
        return self.distance <= GOOD_KL if self.low is None else self.low >= GOOD_SURVIVAL

    @property
    def distance(self) -> float:
        """`mean_kl`, infinite where it is no number."""
        return math.inf if self.mean_kl is None else self.mean_kl


@dataclass(frozen=True)
class Choice:
    """The type that was chosen, why, and all that were tried, smallest first."""

    chosen: str
    reason: str
    trials: tuple[Trial, ...]

    def described(self) -> dict[str, Any]:
        """The choice for the manifest."""
        return {
            "chosen": self.chosen,
            "reason": self.reason,
            "tried": [asdict(trial) for trial in self.trials],
        }


def choose_type(
    subject: Subject, sizes: Mapping[str, int], make: Make, prefer: str, progress: StepProgress
) -> Choice:
    """Try types from small to large; `sizes` are what their files will have in bytes.

    For "size" the first good one ends the search, for "speed" all are tried. Raises PipelineError when one
    cannot be measured. The tuned model's answers are computed once and stay in the subject's scratch folder.
    """
    return choose(_trials(subject, sizes, make, progress), prefer)


def choose(trials: Iterable[Trial], prefer: str) -> Choice:
    """The choice among trials, of which no more are made than are needed."""
    made: list[Trial] = []
    for trial in trials:
        made.append(trial)
        if trial.good and prefer == "size":
            break
    return Choice(*_settle(made, prefer), tuple(made))


def _trials(
    subject: Subject, sizes: Mapping[str, int], make: Make, progress: StepProgress
) -> Iterator[Trial]:
    known = _KnownTrials(subject)
    for quant in sorted(sizes, key=lambda name: sizes[name]):
        if quant not in known.trials:
            path = make(quant)
            tried = replace(subject, files={path.name: path})
            certificate = certify(tried, progress, names=("quality",), hashes={})
            found = [finding for finding in certificate.findings if finding.file in ("", path.name)]
            known.keep(trial_of(quant, path, found))
        yield known.trials[quant]


class _KnownTrials:
    """The trials of this model so far, kept in the scratch folder: the next run goes on from there."""

    def __init__(self, subject: Subject) -> None:
        files = [subject.full, *([subject.evaluation] if subject.evaluation else [])]
        self._key = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        self._path = subject.scratch / "trials.json"
        self.trials: dict[str, Trial] = {}
        if self._path.is_file():
            content = json.loads(self._path.read_text(encoding="utf-8"))
            known = content["trials"] if content["key"] == self._key else []
            self.trials = {fields["type"]: Trial(**fields) for fields in known}

    def keep(self, trial: Trial) -> None:
        """Add one."""
        self.trials[trial.type] = trial
        content = {"key": self._key, "trials": [asdict(one) for one in self.trials.values()]}
        write_atomically(self._path, json.dumps(content))


def trial_of(quant: str, path: Path, found: Sequence[Finding]) -> Trial:
    """What the check `quality` found about one file. Raises PipelineError when it came to no end."""
    findings = {finding.name: finding for finding in found}
    if not {"quantization", "speed"} <= findings.keys():
        why = next((finding.summary for finding in found if finding.name != "speed"), "nothing was found")
        raise PipelineError(
            f"--quant auto cannot measure {quant} ({why.rstrip('.')}): name the types with --quant instead"
        )
    share = findings["survival"].figures.get("kept") or {}
    told = bool(share) and not share["doubt"]
    speed = findings["speed"].figures
    return Trial(
        quant,
        path.stat().st_size,
        share["value"] if told else None,
        share["low"] if told else None,
        share["high"] if told else None,
        findings["quantization"].figures["mean_kl"],
        speed["prefill"],
        speed["decode"],
    )


def _settle(trials: list[Trial], prefer: str) -> tuple[str, str]:
    good = [trial for trial in trials if trial.good]
    if not good:
        best = min(trials, key=lambda trial: trial.distance)
        return best.type, "no type keeps enough; this one is the nearest to the tuned model"
    if prefer == "speed":
        fastest = max(good, key=lambda trial: trial.decode)
        return fastest.type, "the fastest here of those that keep enough"
    smallest = min(good, key=lambda trial: trial.size)
    return smallest.type, "the smallest that keeps enough"


AUTO_OPTION = "auto"
"""Its key in the record's options, and so in manifest.json."""


CANDIDATES_DIR = "tried"
"""The folder of candidates in the workspace: the chosen one is copied from there, tensor by tensor."""


@dataclass(frozen=True)
class AutoStep:
    """Chooses a type for one export; `work` is the workspace's folder."""

    config: ExportConfig
    certifying: CertificateStep
    work: Path
    quantizer: Quantizer

    def choose(self, full: Path, record: Record, progress: StepProgress, imatrix: Path | None = None) -> None:
        """Write the choice into the record; `full` is the GGUF of full precision. Raises PipelineError.

        With an importance matrix in `imatrix` the candidates are made by it, as the chosen one will be.
        """
        (self.work / CANDIDATES_DIR).mkdir(exist_ok=True)
        types = self.config.tensor_types
        wanted = {name: Quantization(full, quant_type(name), types, imatrix) for name in CANDIDATES}
        plans = {name: self.quantizer.plan(one) for name, one in wanted.items()}

        def make(name: str) -> Path:
            path = self.work / CANDIDATES_DIR / self.config.quantized_name(name)
            partial, earlier = path.with_name(f"{path.name}.partial"), tuple(path.parent.glob("*.gguf"))
            job = QuantizeJob(wanted[name], partial, self.config.threads, earlier)
            self.quantizer.quantize(job, plans[name], progress)
            return partial.replace(path)

        sizes = {name: plan.size for name, plan in plans.items()}
        subject = replace(self.certifying.subject(full, record), depth="full")  # quantizing costs more anyway
        choice = choose_type(subject, sizes, make, self.config.prefer, progress)
        record.options[AUTO_OPTION] = {"asked": _asked(self.config), **choice.described()}


def reject_without_template(config: ExportConfig, sources: Sequence[Source]) -> None:
    """Raise InputError when a type is to be chosen by chatting and neither base nor adapter says how."""
    if AUTO in config.quants and not any(_has_template(source.folder) for source in sources):
        raise InputError(
            "--quant auto chats with the candidates, and neither base nor adapter has a chat template: name "
            "the types with --quant, or put a chat_template.jinja into the adapter's or the base's folder"
        )


def _has_template(folder: Path) -> bool:
    """Whether the folder holds one where the converter looks for it."""
    if any((folder / file).is_file() for file in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(read_json(path, "the tokenizer").get("chat_template"))


def remove_candidates(work: Path) -> None:
    """Forget the candidates of an earlier run: nothing records that they are whole."""
    shutil.rmtree(work / CANDIDATES_DIR, ignore_errors=True)


def resolve_auto(config: ExportConfig, record: Record) -> ExportConfig:
    """The configuration with the recorded choice in AUTO's place, if there is one for the same question."""
    choice = record.options.get(AUTO_OPTION)
    if AUTO not in config.quants or not choice or choice["asked"] != _asked(config):
        return config
    return replace(config, quants=tuple(choice["chosen"] if q == AUTO else q for q in config.quants))


def auto_notes(record: Record) -> Sequence[str]:
    """The recorded choice as lines for people: each type that was tried, and which was taken."""
    choice = record.options.get(AUTO_OPTION)
    return list(_lines(choice)) if choice else ()


def _asked(config: ExportConfig) -> dict[str, Any]:
    evaluation = sha256(config.evaluation) if config.evaluation else None
    return {"prefer": config.prefer, "eval": evaluation}


def _lines(choice: dict[str, Any]) -> Iterator[str]:
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
