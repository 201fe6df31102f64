"""A loaded GGUF that is asked: what it makes of samples, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import load_json, store_json
from engine.core.types import BatchRow
from engine.llama.model import Adapter, Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import CpuChoice, probe_model
from pipeline.certificate.scoring.metrics import TokenScores, log_p_of, log_softmax, token_scores
from pipeline.certificate.scoring.teacher_forcing import Sample, logits_of, open_model
from pipeline.certificate.subject import Subject

_PROMPT = 64  # tokens
_CONTEXT = 128


@dataclass(frozen=True)
class Speed:
    """Tokens a second for one conversation; `memory` is the process's growth in bytes, 0 where unknown."""

    prefill: float
    decode: float
    memory: int = 0


@dataclass(frozen=True)
class Effort:
    """How often a prompt is read, and how many tokens are written, to measure the speed."""

    readings: int
    steps: int


EFFORTS = {"fast": Effort(1, 8), "full": Effort(3, 32)}


def measure_speed(model: Model, threads: int, effort: Effort) -> Speed:
    """Read a prompt of 64 tokens, then write tokens one by one, with a model that has been made warm.

    The best reading and the best step count: other programs only ever slow us down.
    """
    runner = Runner(model, slots=1, context=_CONTEXT, batch=_PROMPT, threads=threads)
    tokens = [(100 + 37 * place) % model.vocab.size for place in range(_PROMPT)]
    try:
        _seconds(runner, BatchRow(0, 0, tokens[:1], 1))  # the weights come into memory
        reading = [_seconds(runner, BatchRow(0, 0, tokens, 1)) for _ in range(effort.readings)]
        writing = [_seconds(runner, BatchRow(0, _PROMPT + n, tokens[:1], 1)) for n in range(effort.steps)]
    finally:
        runner.close()
    return Speed(_PROMPT / min(reading), 1 / min(writing))


def _seconds(runner: Runner, row: BatchRow) -> float:
    runner.prepare(0, row.start)
    began = time.perf_counter()
    runner.decode([row])
    return time.perf_counter() - began


def resident_bytes() -> int:
    """This process's memory, mapped files included; 0 where /proc does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 if sizes else 0


Stored = NDArray[np.float16]
"""The tuned model's log-probabilities on its own answers: [tokens, vocabulary]."""


@dataclass(frozen=True)
class ModelScorer:
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
def open_scorer(path: Path, choice: CpuChoice) -> Iterator[ModelScorer]:
    """The file, loaded for as long as the context lasts. Raises EngineError when it does not run."""
    before = resident_bytes()
    with open_model(path, choice) as model:
        yield ModelScorer(model, before)


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


def save_scores(path: Path, key: str, content: dict[str, Any]) -> None:
    """Cache the content at `path` for `load_scores` with the same key. Raises OSError."""
    store_json(path, {"key": key, **content})


def load_scores(path: Path, key: str) -> dict[str, Any] | None:
    """Return the content cached at `path`; None when it is missing, damaged, or has another key."""
    content: dict[str, Any] | None = load_json(path)
    return content if content is not None and content["key"] == key else None


def cache_key(*parts: object) -> str:
    """A key of anything with a `repr`; files count by size and time, for a scratch folder is one export's."""
    return repr([_state(part) if isinstance(part, Path) else part for part in parts])


def _state(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def scores_to_json(scores: Sequence[TokenScores]) -> list[list[list[float]]]:
    """Scores as JSON has them."""
    return [[score.kl.tolist(), score.agree.tolist(), score.log_p.tolist()] for score in scores]


def scores_from_json(content: list[list[list[float]]]) -> tuple[TokenScores, ...]:
    """Scores out of `plain`."""
    return tuple(
        TokenScores(np.array(kl, np.float64), np.array(agree, np.bool_), np.array(log_p, np.float64))
        for kl, agree, log_p in content
    )
