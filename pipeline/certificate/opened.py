"""A loaded GGUF that is asked: what it makes of samples, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.cpu import CpuChoice, probe_model
from engine.model import Adapter, Model
from pipeline.certificate.divergence import TokenScores, log_p_of, log_softmax, token_scores
from pipeline.certificate.logits import Sample, logits_of, open_model
from pipeline.certificate.speed import EFFORTS, Speed, measure_speed, resident_bytes
from pipeline.certificate.subject import Subject

Stored = NDArray[np.float16]
"""The tuned model's log-probabilities on its own answers: [tokens, vocabulary]."""


@dataclass(frozen=True)
class Opened:
    """A loaded model; `before` is what memory the process had without it, in bytes."""

    model: Model
    before: int

    def score(
        self,
        samples: Sequence[Sample],
        stored: Stored,
        subject: Subject,
        adapter: Adapter | None = None,
    ) -> tuple[TokenScores, ...]:
        """What it makes of every sample; `stored` has the rows of the own ones, in their order."""
        found = logits_of(self.model, samples, subject.threads, adapter)
        return tuple(_scores(samples, found, stored))

    def speed(self, subject: Subject) -> Speed:
        """The speed, and by how much the process has grown."""
        speed = measure_speed(self.model, subject.threads, EFFORTS[subject.depth])
        return replace(speed, memory=max(0, resident_bytes() - self.before))


def _scores(
    samples: Sequence[Sample], logits: Iterator[NDArray[np.float32]], stored: Stored
) -> Iterator[TokenScores]:
    place = 0
    for sample, rows in zip(samples, logits, strict=True):
        found = log_softmax(rows)
        if sample.own:
            yield token_scores(stored[place : place + len(found)], found, sample.answer)
            place += len(found)
        else:
            yield TokenScores(np.zeros(0), np.zeros(0, np.bool_), log_p_of(found, sample.answer))


@contextmanager
def opened(path: Path, choice: CpuChoice) -> Iterator[Opened]:
    """The file, loaded for as long as the context lasts. Raises EngineError when it does not run."""
    before = resident_bytes()
    with open_model(path, choice) as model:
        yield Opened(model, before)


def choose_backend(subject: Subject) -> CpuChoice:
    """The CPU backend for all files of the subject.

    The smallest file is tried in a child process: what crashes does so with quantized types, not with f16.
    """
    smallest = min((*subject.files.values(), subject.full), key=lambda path: path.stat().st_size)
    return probe_model(smallest, threads=subject.threads).choice


@cache
def has_template(path: Path) -> bool:
    """Whether the file says how its chats are written; asked once, for that reads the vocabulary.

    Raises ModelError.
    """
    with closing(Model(path, vocab_only=True)) as model:
        return bool(model.metadata("tokenizer.chat_template"))
