"""The tuned model's answers with its and its base's scores: computed once, and cached in the scratch folder.

Log-probabilities are stored in float16, memory-mapped: 2 bytes a token and vocabulary entry, at most 512 MB.
metrics.token_scores explains why that is precise enough.
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
from pipeline.certificate.scoring.quant_diagnosis import levels_of_base
from pipeline.certificate.scoring.samples import SIZES, Prompts, ScoredAnswer, greedy_answers, make_prompts
from pipeline.certificate.scoring.scorer import (
    LogProbs,
    ModelScorer,
    Speed,
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
    """The samples, the tuned model's and its base's scores, and the tuned model's log-probabilities.

    `log_probs` is [tokens of the own answers, vocabulary]. Without a `base`, `no_base` says why. `levels` is
    from quant_diagnosis.levels_of_base. `speed` is the tuned model's; None with `--verify fast`, where other
    steps use the cores meanwhile.
    """

    samples: tuple[Sample, ...]
    tuned: tuple[TokenScores, ...]
    speed: Speed | None
    base: tuple[TokenScores, ...] | None
    no_base: str
    levels: int
    log_probs: LogProbs


def make_reference(subject: Subject, choice: CpuChoice) -> Reference:
    """Return the reference from the scratch folder; compute and save it when it is missing there.

    Raises InputError for unusable chats of the user.
    """
    key = reference_key(subject)
    return _load(subject, key) or _compute(subject, choice, key)


def reference_key(subject: Subject) -> str:
    """Return the cache key of the reference: everything that it depends on."""
    files = [subject.full, *([subject.evaluation] if subject.evaluation else [])]
    return cache_key(subject.depth, *files, why_no_base(subject))


def _compute(subject: Subject, choice: CpuChoice, key: str) -> Reference:
    with open_scorer(subject.full, choice) as full:
        size = SIZES[subject.depth].within(full.model.vocab.size)
        prompts = make_prompts(subject, full.model, size)
        answers = list(_generate(full, prompts, size.tokens, subject))
        samples = tuple(prompts.samples(answers))
        log_probs = _map_log_probs(
            subject, sum(len(answer.tokens) for answer in answers), full.model.vocab.size
        )
        tuned = tuple(_score_tuned(full, samples, answers, log_probs, subject))
        speed = full.speed(subject) if subject.depth == "full" else None
        no_base, base = why_no_base(subject), None
        if not no_base and (adapter := negated_adapter(subject, full.model)):
            with closing(adapter):
                base = full.score(samples, log_probs, subject, adapter)
    if not no_base and base is None:
        no_base, base = _score_base(subject, choice, samples, log_probs)
    reference = Reference(samples, tuned, speed, base, no_base, levels_of_base(subject), log_probs)
    if all(score.is_finite for score in tuned):
        _save(subject.scratch / _SCORES, reference, key)
    return reference


def _generate(
    full: ModelScorer, prompts: Prompts, max_tokens: int, subject: Subject
) -> Iterator[ScoredAnswer]:
    """Yield the tuned model's answers, and write each one's log-probabilities to the scratch folder."""
    token_ids = list(prompts.token_ids.values())
    with (subject.scratch / _LOGITS).open("wb") as file:
        for answer in greedy_answers(full.model, token_ids, max_tokens, subject.threads, with_log_probs=True):
            for row in answer.log_probs:
                file.write(row.tobytes())
            answer.log_probs.clear()
            yield answer


def _map_log_probs(subject: Subject, tokens: int, vocabulary: int) -> LogProbs:
    return np.memmap(subject.scratch / _LOGITS, np.float16, "r", shape=(tokens, vocabulary))


def _score_tuned(
    full: ModelScorer,
    samples: Iterable[Sample],
    answers: Iterable[ScoredAnswer],
    log_probs: LogProbs,
    subject: Subject,
) -> Iterator[TokenScores]:
    """Yield the tuned model's scores; its own answers were scored during generation and diverge by 0."""
    own = (
        TokenScores(np.zeros(len(one.tokens)), np.ones(len(one.tokens), np.bool_), np.array(one.log_p))
        for one in answers
    )
    held_out = iter(full.score([sample for sample in samples if not sample.own], log_probs, subject))
    for sample in samples:
        yield next(own) if sample.own else next(held_out)


def _score_base(
    subject: Subject, choice: CpuChoice, samples: tuple[Sample, ...], log_probs: LogProbs
) -> tuple[str, tuple[TokenScores, ...] | None]:
    """Convert and score the base; returns the reason when it cannot be scored, and the scores."""
    with base_gguf(subject) as path, open_scorer(path, choice) as base:
        if base.model.vocab.size != log_probs.shape[1]:
            return "the tuning resized the vocabulary, so the base speaks of other tokens", None
        return "", base.score(samples, log_probs, subject)


def _save(path: Path, reference: Reference, key: str) -> None:
    content = {
        "shape": reference.log_probs.shape,
        "samples": [asdict(sample) for sample in reference.samples],
        "tuned": scores_to_json(reference.tuned),
        "speed": None if reference.speed is None else asdict(reference.speed),
        "base": None if reference.base is None else scores_to_json(reference.base),
        "no_base": reference.no_base,
        "levels": reference.levels,
    }
    save_scores(path, key, content)


def _load(subject: Subject, key: str) -> Reference | None:
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
        _map_log_probs(subject, *content["shape"]),
    )
