"""The tuned model's answers and what it and its base make of them: computed once, kept in the scratch folder.

Log-probabilities are kept in float16, memory-mapped: 2 bytes a token and vocabulary entry, at most 512 MB.
divergence.compare says why that suffices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.cpu import Probe, probe_model
from engine.model import Model
from pipeline.certificate.answers import SIZES, make_samples
from pipeline.certificate.base_gguf import base_gguf, why_no_base
from pipeline.certificate.divergence import TokenScores, compare, log_p_of, log_softmax
from pipeline.certificate.logits import LogitReader, Sample, open_model
from pipeline.certificate.quant_cause import levels_of
from pipeline.certificate.speed import EFFORTS, Speed, measure_speed, resident_bytes
from pipeline.certificate.subject import Subject
from pipeline.manifest import write_atomically

_LOGITS, _SCORES = "tuned-logits.f16", "tuned-scores.json"

Stored = NDArray[np.float16]


@dataclass(frozen=True)
class FileScores:
    """What one file makes of every sample, in their order, and how fast it is."""

    scores: tuple[TokenScores, ...]
    speed: Speed


@dataclass(frozen=True)
class Reference:
    """The samples, what the tuned model and its base make of them, and the tuned model's log-probabilities.

    `stored` is [tokens of its own answers, vocabulary]. Where there is no `base`, `no_base` says why.
    `levels` is how many values a block of the weights has that the tuning began with (rounding.levels_of).
    `speed` is the tuned model's; None where it was asked fast, while others used the cores.
    """

    samples: tuple[Sample, ...]
    tuned: tuple[TokenScores, ...]
    speed: Speed | None
    base: tuple[TokenScores, ...] | None
    no_base: str
    levels: int
    stored: Stored


def choose_backend(subject: Subject) -> Probe:
    """The CPU backend for all files of the subject, and what they say about themselves.

    The smallest file is tried in a child process: what crashes does so with quantized types, not with f16.
    """
    smallest = min((*subject.files.values(), subject.full), key=lambda path: path.stat().st_size)
    return probe_model(smallest, threads=subject.threads)


def has_template(path: Path) -> bool:
    """Whether the file says how its chats are written. Raises ModelError."""
    with closing(Model(path, vocab_only=True)) as model:
        return bool(model.metadata("tokenizer.chat_template"))


def make_reference(subject: Subject, probe: Probe) -> Reference:
    """Ask the tuned model, score its answers with it and its base; or find all that in the scratch folder.

    Raises InputError for what is wrong with the user's chats.
    """
    key = _key(subject)
    return _recall(subject, key) or _make(subject, probe, key)


def score_file(path: Path, reference: Reference, subject: Subject, probe: Probe) -> FileScores:
    """Score the samples with one more file. Raises EngineError when it does not run."""
    with _measured(path, probe) as opened:
        scores = opened.score(reference.samples, reference.stored, subject)
        return FileScores(scores, opened.speed(subject))


def speed_of(path: Path, subject: Subject, probe: Probe) -> Speed:
    """How fast one file is, without any samples. Raises EngineError when it does not run."""
    with _measured(path, probe) as opened:
        return opened.speed(subject)


def _make(subject: Subject, probe: Probe, key: str) -> Reference:
    with _measured(subject.full, probe) as opened:
        vocabulary = opened.model.vocab.size
        size = SIZES[subject.depth].within(vocabulary)
        samples = tuple(make_samples(subject, opened.model, probe.facts, size))
        tokens = sum(len(sample.answer) for sample in samples if sample.own)
        stored: Stored = np.memmap(subject.scratch / _LOGITS, np.float16, "w+", shape=(tokens, vocabulary))
        scores = opened.score(samples, stored, subject, fill=True)
        speed = opened.speed(subject) if subject.depth == "full" else None
    base, why, levels = _base_scores(subject, samples, stored, probe)
    reference = Reference(samples, scores, speed, base, why, levels, stored)
    _remember(subject.scratch / _SCORES, reference, key)
    return reference


def _base_scores(
    subject: Subject, samples: tuple[Sample, ...], stored: Stored, probe: Probe
) -> tuple[tuple[TokenScores, ...] | None, str, int]:
    """What the base makes of the samples, or why it was not asked; and the levels of its weights."""
    if why := why_no_base(subject):
        return None, why, levels_of(subject.full)
    with base_gguf(subject) as path, _measured(path, probe) as opened:
        levels = levels_of(path)
        if opened.model.vocab.size != stored.shape[1]:
            return None, "the tuning resized the vocabulary, so the base speaks of other tokens", levels
        return opened.score(samples, stored, subject), "", levels


@dataclass(frozen=True)
class _Opened:
    """A loaded model; `before` is what memory the process had without it."""

    model: Model
    before: int

    def score(
        self, samples: Sequence[Sample], stored: Stored, subject: Subject, *, fill: bool = False
    ) -> tuple[TokenScores, ...]:
        """Score every sample; with `fill`, `stored` gets the log-probabilities first."""
        context = max(len(sample.prompt) + len(sample.answer) for sample in samples)
        with closing(LogitReader(self.model, context=context, threads=subject.threads)) as reader:
            return tuple(_scores(reader, samples, stored, fill))

    def speed(self, subject: Subject) -> Speed:
        """The speed, and by how much the process has grown."""
        speed = measure_speed(self.model, subject.threads, EFFORTS[subject.depth])
        return replace(speed, memory=max(0, resident_bytes() - self.before))


@contextmanager
def _measured(path: Path, probe: Probe) -> Iterator[_Opened]:
    before = resident_bytes()
    with open_model(path, probe.choice) as model:
        yield _Opened(model, before)


def _scores(
    reader: LogitReader, samples: Sequence[Sample], stored: Stored, fill: bool
) -> Iterator[TokenScores]:
    place = 0
    for sample in samples:
        found = log_softmax(reader.logits(sample))
        if not sample.own:
            yield TokenScores(np.zeros(0), np.zeros(0, np.bool_), log_p_of(found, sample.answer))
            continue
        rows = stored[place : place + len(found)]
        place += len(found)
        if fill:
            rows[:] = found
        yield compare(rows, found, sample.answer)


def _key(subject: Subject) -> str:
    """What the reference depends on, told by sizes and times: the scratch folder belongs to one export."""
    files = [subject.full, *([subject.evaluation] if subject.evaluation else [])]
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return repr((subject.depth, subject.threads, states, why_no_base(subject)))


def _remember(path: Path, reference: Reference, key: str) -> None:
    content = {
        "key": key,
        "shape": reference.stored.shape,
        "samples": [asdict(sample) for sample in reference.samples],
        "tuned": _plain_scores(reference.tuned),
        "speed": None if reference.speed is None else asdict(reference.speed),
        "base": None if reference.base is None else _plain_scores(reference.base),
        "no_base": reference.no_base,
        "levels": reference.levels,
    }
    write_atomically(path, json.dumps(content))


def _recall(subject: Subject, key: str) -> Reference | None:
    try:
        content = json.loads((subject.scratch / _SCORES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if content["key"] != key:
        return None
    samples = tuple(
        Sample(**{**fields, "prompt": tuple(fields["prompt"]), "answer": tuple(fields["answer"])})
        for fields in content["samples"]
    )
    base = None if content["base"] is None else _scores_of(content["base"])
    stored: Stored = np.memmap(subject.scratch / _LOGITS, np.float16, "r", shape=tuple(content["shape"]))
    speed = None if content["speed"] is None else Speed(**content["speed"])
    tuned, why, levels = _scores_of(content["tuned"]), content["no_base"], content["levels"]
    return Reference(samples, tuned, speed, base, why, levels, stored)


def _plain_scores(scores: Sequence[TokenScores]) -> list[list[list[float]]]:
    return [[score.kl.tolist(), score.agree.tolist(), score.log_p.tolist()] for score in scores]


def _scores_of(content: list[list[list[float]]]) -> tuple[TokenScores, ...]:
    return tuple(
        TokenScores(np.array(kl, np.float64), np.array(agree, np.bool_), np.array(log_p, np.float64))
        for kl, agree, log_p in content
    )
