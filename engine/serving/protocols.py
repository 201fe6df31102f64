"""ChatBackend: the interface between user interfaces and the engine; see engine.serving.backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from engine.config import SamplingParams
from engine.core.stats import EngineStats
from engine.types import Event, ModelInfo, PromptInput


class ChatStream(Protocol):
    """One answer in progress: iterate it for its events, in a thread or an event loop.

    The last event is always `Finished`, or the iteration raises an EngineError. `cancel` stops an
    answer: it returns at once, and the engine frees the slot within one step.
    """

    def __iter__(self) -> Iterator[Event]: ...

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def batch(self, seconds: float) -> list[Event]:
        """Return the events of the next seconds, at least one; returns early when the answer ends.

        Alternative to iterating, for callers that refresh at intervals; does not block the event loop.
        """
        ...

    def cancel(self) -> None:
        """Stop the answer; the stream then ends with Finished(reason="cancelled")."""
        ...


class ChatBackend(Protocol):
    """Answers chats with one model."""

    @property
    def info(self) -> ModelInfo:
        """Return the description of the model."""
        ...

    def stream(self, prompt: PromptInput, sampling: SamplingParams) -> ChatStream:
        """Start an answer to a conversation, or continue a text. Raises RequestError or QueueFull at once."""
        ...

    def close(self) -> None:
        """Stop all answers and free the model."""
        ...


@runtime_checkable
class SupportsStart(Protocol):
    """A backend that prepares prompts elsewhere, so that starting an answer takes no thread."""

    def start(self, prompt: PromptInput, sampling: SamplingParams) -> tuple[ChatStream, Future[None]]:
        """Start an answer at once; the future is done when it is queued, or raises as `stream` does."""
        ...


@runtime_checkable
class SupportsHealth(Protocol):
    """A backend that may fail permanently."""

    @property
    def failed(self) -> bool:
        """Return whether the backend no longer answers."""
        ...

    @property
    def given_up(self) -> bool:
        """Return whether opening the model again is pointless, as it failed too often."""
        ...


@runtime_checkable
class SupportsStats(Protocol):
    """A backend with counters."""

    def stats(self) -> EngineStats:
        """Return the counters. Safe from any thread."""
        ...
