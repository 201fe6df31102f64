"""What one quantized file makes of the samples: computed once, kept in the scratch folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.cpu import Probe
from pipeline.certificate.divergence import TokenScores
from pipeline.certificate.kept import keep, key_of, plain, recall, scores_of
from pipeline.certificate.opened import opened
from pipeline.certificate.reference import Reference, reference_key
from pipeline.certificate.speed import Speed
from pipeline.certificate.subject import Subject

Scores = tuple[TokenScores, ...]


def score_file(path: Path, reference: Reference, subject: Subject, probe: Probe) -> Scores:
    """Its scores of every sample, in their order. Raises EngineError when it does not run."""

    def score() -> Scores:
        with opened(path, probe) as model:
            return model.score(reference.samples, reference.stored, subject)

    return _once(path, subject, score)


def measure_file(path: Path, reference: Reference, subject: Subject, probe: Probe) -> tuple[Scores, Speed]:
    """Its scores and its speed, which is never kept: loaded once, when nothing else runs."""
    with opened(path, probe) as model:
        scores = _once(path, subject, lambda: model.score(reference.samples, reference.stored, subject))
        return scores, model.speed(subject)


def _once(path: Path, subject: Subject, score: Callable[[], Scores]) -> Scores:
    kept, key = subject.scratch / f"scores-{path.stem}.json", key_of(path, reference_key(subject))
    if (content := recall(kept, key)) is not None:
        return scores_of(content["scores"])
    scores = score()
    keep(kept, key, {"scores": plain(scores)})
    return scores
