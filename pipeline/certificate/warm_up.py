"""Ahead of `quality`, while files are being made: asks the models with the likeliest backend, untried.

llama.cpp's fastest backend crashes on some machines, so elsewhere another process tries it first
(engine.cpu). Here this process is the trial. Where it fails it ends, and `quality` does what is left with a
tried backend; where it lives, it vouches for the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.cpu import CpuChoice, Probe, likeliest, vouch
from engine.errors import EngineError
from engine.facts import facts_of
from pipeline.certificate.divergence import TokenScores
from pipeline.certificate.file_scores import score_opened
from pipeline.certificate.finding import Finding
from pipeline.certificate.opened import has_template, opened
from pipeline.certificate.reference import make_reference
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress


def prepare_quality(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Ask the tuned model and score the files that there are, for `check_quality`; yields no finding.

    Raises SystemExit where a model does not run: no other backend may join this one in its process.
    """
    try:
        if has_template(subject.full):
            _try(subject, likeliest())
    except EngineError as error:
        raise SystemExit(str(error)) from error
    yield from ()


def _try(subject: Subject, choice: CpuChoice) -> None:
    reference = make_reference(subject, choice)
    _check_finite(subject.full, reference.tuned)
    for path in subject.files.values():
        with opened(path, choice) as file:
            _check_finite(path, score_opened(file, path, reference, subject))
            vouch(path, Probe(facts_of(file.model, path), choice))


def _check_finite(path: Path, scores: Sequence[TokenScores]) -> None:
    if not all(score.finite for score in scores):
        raise EngineError(f"the numbers of {path.name} are not finite")
