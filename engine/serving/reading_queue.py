"""Texts that are only read, for embeddings or log-probabilities, in pieces between the engine's steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import EngineError, PromptTooLong, RequestError
from engine.llama.embedder import MAX_TOKENS, Embedder, Embedding
from engine.llama.model import Adapter, Model
from engine.llama.text_scorer import Scores, TextScorer
from engine.prompt.chat_template import PromptBuilder
from engine.prompt.truncation import last_turn, truncate
from engine.types import (
    AnswerToScore,
    EmbeddingVector,
    Event,
    Finished,
    FinishReason,
    MessagesDropped,
    ModelInfo,
    RequestStats,
    TextToEmbed,
    TextToRead,
    TextToScore,
)


@dataclass(frozen=True)
class Reading:
    """What is wanted of a text: its embedding, or with `top` the log-probabilities of its tokens.

    `top` is the number of likeliest tokens at each place, None for the embedding. The tokens from `first` on
    are scored.
    """

    top: int | None = None
    first: int = 0


@dataclass
class _Job:
    request: int
    tokens: list[int]
    wanted: Reading
    found: Embedding | Scores | None = None


class ReadingQueue:
    """Reads one text after another; it belongs to the engine's thread."""

    def __init__(self, build: Callable[[], Embedder], build_scorer: Callable[[], TextScorer]) -> None:
        """The functions return the embedder and the scorer, when the first text for one comes."""
        self._build, self._build_scorer = build, build_scorer
        self._embedder: Embedder | None = None
        self._scorer: TextScorer | None = None
        self._jobs: deque[_Job] = deque()

    @property
    def busy(self) -> bool:
        """Whether a text waits."""
        return bool(self._jobs)

    def add(self, request: int, tokens: list[int], wanted: Reading) -> None:
        """Queue a text."""
        self._jobs.append(_Job(request, tokens, wanted))

    def cancel(self, request: int) -> list[tuple[int, Event]]:
        """Drop a text; return its last event, none if it is not here."""
        before = len(self._jobs)
        self._jobs = deque(job for job in self._jobs if job.request != request)
        return [(request, _finished("cancelled", 0))] if len(self._jobs) < before else []

    def step(self) -> tuple[int, list[Event] | EngineError]:
        """Read a piece of the first text; return its request, and its events or error if it has ended."""
        job = self._jobs[0]
        ended: list[Event] | EngineError
        try:
            ended = self._embed(job) if job.wanted.top is None else self._score(job, job.wanted.top)
        except EngineError as error:
            ended = error
        if ended != []:
            self._jobs.popleft()
        return job.request, ended

    def _embed(self, job: _Job) -> list[Event]:
        self._embedder = self._embedder or self._build()
        found = job.found if isinstance(job.found, Embedding) else self._embedder.start()
        job.found = found
        self._embedder.add(found, job.tokens[found.count :])
        if found.count < len(job.tokens):
            return []
        return [EmbeddingVector(found.vector()), _finished("stop", found.count)]

    def _score(self, job: _Job, top: int) -> list[Event]:
        self._scorer = self._scorer or self._build_scorer()
        found = (
            job.found
            if isinstance(job.found, Scores)
            else self._scorer.start(job.tokens, top, job.wanted.first)
        )
        job.found = found
        self._scorer.add(found)
        if found.count < len(job.tokens):
            return []
        return [found.event(), _finished("length", found.count, 1)]

    def clear(self) -> None:
        """Drop all texts."""
        self._jobs.clear()

    def close(self) -> None:
        """Free the embedder and the scorer."""
        self.clear()
        for reader in (self._embedder, self._scorer):
            if reader is not None:
                reader.close()
        self._embedder = self._scorer = None


@dataclass(frozen=True)
class TextRead:
    """A text's tokens, what is wanted of them, and what a conversation has lost to fit."""

    tokens: list[int]
    wanted: Reading
    dropped: MessagesDropped | None = None


def prepare_reading(prompt: TextToRead, prompts: PromptBuilder, info: ModelInfo, vocabulary: int) -> TextRead:
    """Return the tokens of a text that is only read. Raises RequestError for one that is too long.

    Ids that are given must be below `vocabulary`.
    """
    limit = _context(info)
    if isinstance(prompt, TextToEmbed):
        return TextRead(prompts.text_tokens(prompt.text, limit), Reading())
    if isinstance(prompt, AnswerToScore):
        return _answer(prompt, prompts, limit)
    return TextRead(_text(prompt, prompts, limit, vocabulary), Reading(prompt.top))


def _answer(prompt: AnswerToScore, prompts: PromptBuilder, limit: int) -> TextRead:
    too_long = f"the last turn has more than {limit} tokens, and {limit} are the most that can be scored"
    if prompts.exceeds(last_turn(prompt.messages), limit):
        raise PromptTooLong(too_long)
    window = truncate(prompt.messages, limit, prompts)
    if len(window.tokens) > limit:
        raise PromptTooLong(too_long)
    first = len(prompts.tokens(window.messages[:-1]))
    return TextRead(window.tokens, Reading(prompt.top, first), window.dropped)


def _text(prompt: TextToScore, prompts: PromptBuilder, limit: int, vocabulary: int) -> list[int]:
    if isinstance(prompt.prompt, str):
        return prompts.raw_tokens(prompt.prompt, limit)
    if len(prompt.prompt) > limit:
        raise PromptTooLong(f"a prompt has {len(prompt.prompt)} tokens, and {limit} are the most: split it")
    wrong = next((one for one in prompt.prompt if not 0 <= one < vocabulary), None)
    if wrong is not None:
        raise RequestError(
            f"{wrong} is no token of this model, which has {vocabulary}: send a text, or its tokenizer's ids"
        )
    return prompt.prompt


def _context(info: ModelInfo) -> int:
    return min(MAX_TOKENS, info.context)


def reading_queue(model: Model, info: ModelInfo, adapter: Adapter | None) -> ReadingQueue:
    """Return a queue for the model, with the adapter if there is one."""
    context = _context(info)
    return ReadingQueue(
        lambda: Embedder(model, context=context, threads=info.threads, adapter=adapter),
        lambda: TextScorer(model, context=context, threads=info.threads, adapter=adapter),
    )


def _finished(reason: FinishReason, tokens: int, generated: int = 0) -> Finished:
    return Finished(reason, RequestStats(tokens, 0, generated, 0.0, 0.0, 0.0))
