"""Ahead of `quality`, while files are being made: asks the models with the likeliest backend, untried.

llama.cpp's fastest backend crashes on some machines, so elsewhere another process tries it first
(engine.probe.cpu_backend). Here this process is the trial. Where it fails it ends, and `quality` does what is
left with a tried backend; where it lives, it vouches for the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.errors import EngineError
from engine.llama.model import model_metadata
from engine.probe.cpu_backend import CpuChoice, Probe, first_candidate, record_probe
from pipeline.certificate.finding import Finding
from pipeline.certificate.scoring.metrics import TokenScores
from pipeline.certificate.scoring.reference import Reference, make_reference, reference_key
from pipeline.certificate.scoring.scorer import (
    ModelScorer,
    Speed,
    cache_key,
    has_template,
    load_scores,
    open_scorer,
    save_scores,
    scores_from_json,
    scores_to_json,
)
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress

Scores = tuple[TokenScores, ...]


def score_file(path: Path, reference: Reference, subject: Subject, choice: CpuChoice) -> Scores:
    """Its scores of every sample, in their order. Raises EngineError when it does not run."""
    with open_scorer(path, choice) as file:
        return score_opened(file, path, reference, subject)


def measure_file(
    path: Path, reference: Reference, subject: Subject, choice: CpuChoice
) -> tuple[Scores, Speed]:
    """Its scores and its speed, which is never kept: loaded once, when nothing else runs."""
    with open_scorer(path, choice) as file:
        return score_opened(file, path, reference, subject), file.speed(subject)


def score_opened(file: ModelScorer, path: Path, reference: Reference, subject: Subject) -> Scores:
    """The scores of the file at `path`, which is open; kept, where they are numbers."""
    kept, key = subject.scratch / f"scores-{path.stem}.json", cache_key(path, reference_key(subject))
    if (content := load_scores(kept, key)) is not None:
        return scores_from_json(content["scores"])
    scores = file.score(reference.samples, reference.stored, subject)
    if all(score.finite for score in scores):
        save_scores(kept, key, {"scores": scores_to_json(scores)})
    return scores


def prepare_quality(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Ask the tuned model and score the files that there are, for `check_quality`; yields no finding.

    Raises SystemExit where a model does not run: no other backend may join this one in its process.
    """
    try:
        if has_template(subject.full):
            _try(subject, first_candidate())
    except EngineError as error:
        raise SystemExit(str(error)) from error
    yield from ()


def _try(subject: Subject, choice: CpuChoice) -> None:
    reference = make_reference(subject, choice)
    _check_finite(subject.full, reference.tuned)
    for path in subject.files.values():
        with open_scorer(path, choice) as file:
            _check_finite(path, score_opened(file, path, reference, subject))
            record_probe(path, Probe(model_metadata(file.model, path), choice))


def _check_finite(path: Path, scores: Sequence[TokenScores]) -> None:
    if not all(score.finite for score in scores):
        raise EngineError(f"the numbers of {path.name} are not finite")
