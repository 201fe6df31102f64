"""Texts that wait for their embeddings, computed piece by piece between the engine's steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.llama.embedder import Embedder, Embedding
from engine.types import EmbeddingVector, Event, Finished, FinishReason, RequestStats


@dataclass
class _Job:
    request: int
    tokens: list[int]
    found: Embedding | None = None


class EmbeddingQueue:
    """Computes the embeddings of one text after another; it belongs to the engine's thread."""

    def __init__(self, build: Callable[[], Embedder]) -> None:
        """`build` returns the embedder, when the first text comes."""
        self._build = build
        self._embedder: Embedder | None = None
        self._jobs: deque[_Job] = deque()

    @property
    def busy(self) -> bool:
        """Whether a text waits."""
        return bool(self._jobs)

    def add(self, request: int, tokens: list[int]) -> None:
        """Queue a text."""
        self._jobs.append(_Job(request, tokens))

    def cancel(self, request: int) -> list[tuple[int, Event]]:
        """Drop a text; return its last event, none if it is not here."""
        before = len(self._jobs)
        self._jobs = deque(job for job in self._jobs if job.request != request)
        return [(request, _finished("cancelled", 0))] if len(self._jobs) < before else []

    def step(self) -> tuple[int, list[Event] | EngineError]:
        """Read a piece of the first text; return its request, and its events or error if it has ended."""
        job = self._jobs[0]
        try:
            self._embedder = self._embedder or self._build()
            job.found = job.found or self._embedder.start()
            self._embedder.add(job.found, job.tokens[job.found.count :])
            if job.found.count < len(job.tokens):
                return job.request, []
            ended: list[Event] | EngineError
            ended = [EmbeddingVector(job.found.vector()), _finished("stop", job.found.count)]
        except EngineError as error:
            ended = error
        self._jobs.popleft()
        return job.request, ended

    def clear(self) -> None:
        """Drop all texts."""
        self._jobs.clear()

    def close(self) -> None:
        """Free the embedder."""
        self.clear()
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None


def _finished(reason: FinishReason, tokens: int) -> Finished:
    return Finished(reason, RequestStats(tokens, 0, 0, 0.0, 0.0, 0.0))
