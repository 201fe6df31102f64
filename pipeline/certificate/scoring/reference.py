"""The tuned model's answers and what it and its base make of them: computed once, kept in the scratch folder.

Log-probabilities are kept in float16, memory-mapped: 2 bytes a token and vocabulary entry, at most 512 MB.
divergence.token_scores says why that suffices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.probe.cpu_backend import CpuChoice
from pipeline.certificate.scoring.base_model import base_gguf, negated_adapter, why_no_base
from pipeline.certificate.scoring.metrics import TokenScores
from pipeline.certificate.scoring.quant_diagnosis import distinct_levels
from pipeline.certificate.scoring.samples import SIZES, Prompts, ScoredAnswer, greedy_answers, make_prompts
from pipeline.certificate.scoring.scorer import (
    ModelScorer,
    Speed,
    Stored,
    cache_key,
    load_scores,
    open_scorer,
    save_scores,
    scores_from_json,
    scores_to_json,
)
from pipeline.certificate.scoring.teacher_forcing import Sample
from pipeline.certificate.subject import Subject

_LOGITS, _SCORES = "tuned-logits.f16", "tuned-scores.json"


@dataclass(frozen=True)
class Reference:
    """The samples, what the tuned model and its base make of them, and the tuned model's log-probabilities.

    `stored` is [tokens of its own answers, vocabulary]. Where there is no `base`, `no_base` says why.
    `levels` is how many values a block of the weights has that the tuning began with (quant_cause.levels_of).
    `speed` is the tuned model's; None where it was asked fast, while others used the cores.
    """

    samples: tuple[Sample, ...]
    tuned: tuple[TokenScores, ...]
    speed: Speed | None
    base: tuple[TokenScores, ...] | None
    no_base: str
    levels: int
    stored: Stored


def make_reference(subject: Subject, choice: CpuChoice) -> Reference:
    """Ask the tuned model, score its answers with it and its base; or find all that in the scratch folder.

    Raises InputError for what is wrong with the user's chats.
    """
    key = reference_key(subject)
    return _recall(subject, key) or _make(subject, choice, key)


def reference_key(subject: Subject) -> str:
    """What the reference depends on."""
    files = [subject.full, *([subject.evaluation] if subject.evaluation else [])]
    return cache_key(subject.depth, *files, why_no_base(subject))


def _make(subject: Subject, choice: CpuChoice, key: str) -> Reference:
    with open_scorer(subject.full, choice) as full:
        size = SIZES[subject.depth].within(full.model.vocab.size)
        prompts = make_prompts(subject, full.model, size)
        answers = list(_ask(full, prompts, size.tokens, subject))
        samples = tuple(prompts.samples(answers))
        stored = _stored(subject, sum(len(answer.tokens) for answer in answers), full.model.vocab.size)
        tuned = tuple(_of_the_tuned(full, samples, answers, stored, subject))
        speed = full.speed(subject) if subject.depth == "full" else None
        why, base = why_no_base(subject), None
        if not why and (adapter := negated_adapter(subject, full.model)):
            with closing(adapter):
                base = full.score(samples, stored, subject, adapter)
    if not why and base is None:
        why, base = _of_the_base(subject, choice, samples, stored)
    reference = Reference(samples, tuned, speed, base, why, distinct_levels(subject), stored)
    if all(score.finite for score in tuned):
        _keep(subject.scratch / _SCORES, reference, key)
    return reference


def _ask(full: ModelScorer, prompts: Prompts, most: int, subject: Subject) -> Iterator[ScoredAnswer]:
    """The answers; what the model thought goes into the scratch folder, one answer after another."""
    asked = list(prompts.asked.values())
    with (subject.scratch / _LOGITS).open("wb") as file:
        for answer in greedy_answers(full.model, asked, most, subject.threads, keep=True):
            for row in answer.stored:
                file.write(row.tobytes())
            answer.stored.clear()
            yield answer


def _stored(subject: Subject, tokens: int, vocabulary: int) -> Stored:
    return np.memmap(subject.scratch / _LOGITS, np.float16, "r", shape=(tokens, vocabulary))


def _of_the_tuned(
    full: ModelScorer,
    samples: Iterable[Sample],
    answers: Iterable[ScoredAnswer],
    stored: Stored,
    subject: Subject,
) -> Iterator[TokenScores]:
    """Its own answers were scored as they were written; it differs from itself in nothing."""
    own = (
        TokenScores(np.zeros(len(one.tokens)), np.ones(len(one.tokens), np.bool_), np.array(one.log_p))
        for one in answers
    )
    theirs = iter(full.score([sample for sample in samples if not sample.own], stored, subject))
    for sample in samples:
        yield next(own) if sample.own else next(theirs)


def _of_the_base(
    subject: Subject, choice: CpuChoice, samples: tuple[Sample, ...], stored: Stored
) -> tuple[str, tuple[TokenScores, ...] | None]:
    """Why the base was not asked, if it was not, and what a GGUF of it makes of the samples."""
    with base_gguf(subject) as path, open_scorer(path, choice) as base:
        if base.model.vocab.size != stored.shape[1]:
            return "the tuning resized the vocabulary, so the base speaks of other tokens", None
        return "", base.score(samples, stored, subject)


def _keep(path: Path, reference: Reference, key: str) -> None:
    content = {
        "shape": reference.stored.shape,
        "samples": [asdict(sample) for sample in reference.samples],
        "tuned": scores_to_json(reference.tuned),
        "speed": None if reference.speed is None else asdict(reference.speed),
        "base": None if reference.base is None else scores_to_json(reference.base),
        "no_base": reference.no_base,
        "levels": reference.levels,
    }
    save_scores(path, key, content)


def _recall(subject: Subject, key: str) -> Reference | None:
    content = load_scores(subject.scratch / _SCORES, key)
    if content is None:
        return None
    samples = tuple(
        Sample(**{**fields, "prompt": tuple(fields["prompt"]), "answer": tuple(fields["answer"])})
        for fields in content["samples"]
    )
    return Reference(
        samples,
        scores_from_json(content["tuned"]),
        None if content["speed"] is None else Speed(**content["speed"]),
        None if content["base"] is None else scores_from_json(content["base"]),
        content["no_base"],
        content["levels"],
        _stored(subject, *content["shape"]),
    )
