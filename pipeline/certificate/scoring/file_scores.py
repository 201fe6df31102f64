"""Score files, either for `quality` or ahead of it while later files are quantized (`prepare_quality`).

llama.cpp's fastest backend crashes on some machines, so normally another process tries it first
(engine.probe.cpu_backend). `prepare_quality` uses the first-choice backend untried: a crash only ends this
process, and `quality` does the rest with a tried backend; a success is recorded as the files' probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.certificate import Finding
from engine.errors import EngineError
from engine.llama.model import model_metadata
from engine.probe.cpu_backend import CpuChoice, Probe, first_candidate, record_probe
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


def lora_of(path: Path, subject: Subject) -> Path | None:
    """Return the GGUF LoRA file that goes with a quantized file of the subject; None where it is merged."""
    return next(
        (
            subject.loras[name]
            for name, file in subject.files.items()
            if file == path and name in subject.loras
        ),
        None,
    )


def score_file(path: Path, reference: Reference, subject: Subject, choice: CpuChoice) -> Scores:
    """Load the file and score every sample, in their order. Raises EngineError when the file does not run."""
    with open_scorer(path, choice, lora_of(path, subject)) as scorer:
        return score_opened(scorer, path, reference, subject)


def measure_file(
    path: Path, reference: Reference, subject: Subject, choice: CpuChoice
) -> tuple[Scores, Speed]:
    """Load the file once, and return its scores and its speed.

    The speed is never cached; measure it only when nothing else runs.
    """
    with open_scorer(path, choice, lora_of(path, subject)) as scorer:
        return score_opened(scorer, path, reference, subject), scorer.speed(subject)


def score_opened(scorer: ModelScorer, path: Path, reference: Reference, subject: Subject) -> Scores:
    """Return the scores of the file at `path`, loaded in `scorer`; cached in the scratch folder if finite."""
    cached = subject.scratch / f"scores-{path.stem}.json"
    key = cache_key(path, *filter(None, [lora_of(path, subject)]), reference_key(subject))
    if (content := load_scores(cached, key)) is not None:
        return scores_from_json(content["scores"])
    scores = scorer.score(reference.samples, reference.log_probs, subject)
    if all(score.is_finite for score in scores):
        save_scores(cached, key, {"scores": scores_to_json(scores)})
    return scores


def prepare_quality(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Make the reference and score the existing files for `check_quality`; yields no finding.

    Raises SystemExit when a model does not run: a process cannot load a second backend.
    """
    try:
        if has_template(subject.full):
            _score_untried(subject, first_candidate())
    except EngineError as error:
        raise SystemExit(str(error)) from error
    yield from ()


def _score_untried(subject: Subject, choice: CpuChoice) -> None:
    """Score all files with a backend that was not tried before, and record that it works."""
    reference = make_reference(subject, choice)
    _check_finite(subject.full, reference.tuned)
    for path in subject.files.values():
        with open_scorer(path, choice, lora_of(path, subject)) as scorer:
            _check_finite(path, score_opened(scorer, path, reference, subject))
            record_probe(path, Probe(model_metadata(scorer.model, path), choice))


def _check_finite(path: Path, scores: Sequence[TokenScores]) -> None:
    if not all(score.is_finite for score in scores):
        raise EngineError(f"the numbers of {path.name} are not finite")
