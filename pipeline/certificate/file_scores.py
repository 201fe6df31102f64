"""What one quantized file makes of the samples: computed once, kept in the scratch folder."""

from __future__ import annotations

from pathlib import Path

from engine.cpu import CpuChoice
from pipeline.certificate.divergence import TokenScores
from pipeline.certificate.kept import keep, key_of, plain, recall, scores_of
from pipeline.certificate.opened import Opened, opened
from pipeline.certificate.reference import Reference, reference_key
from pipeline.certificate.speed import Speed
from pipeline.certificate.subject import Subject

Scores = tuple[TokenScores, ...]


def score_file(path: Path, reference: Reference, subject: Subject, choice: CpuChoice) -> Scores:
    """Its scores of every sample, in their order. Raises EngineError when it does not run."""
    with opened(path, choice) as file:
        return score_opened(file, path, reference, subject)


def measure_file(
    path: Path, reference: Reference, subject: Subject, choice: CpuChoice
) -> tuple[Scores, Speed]:
    """Its scores and its speed, which is never kept: loaded once, when nothing else runs."""
    with opened(path, choice) as file:
        return score_opened(file, path, reference, subject), file.speed(subject)


def score_opened(file: Opened, path: Path, reference: Reference, subject: Subject) -> Scores:
    """The scores of the file at `path`, which is open; kept, where they are numbers."""
    kept, key = subject.scratch / f"scores-{path.stem}.json", key_of(path, reference_key(subject))
    if (content := recall(kept, key)) is not None:
        return scores_of(content["scores"])
    scores = file.score(reference.samples, reference.stored, subject)
    if all(score.finite for score in scores):
        keep(kept, key, {"scores": plain(scores)})
    return scores
