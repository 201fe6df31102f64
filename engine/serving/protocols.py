"""ChatBackend: the interface that pages and terminal use; implemented in engine.serving.backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol, runtime_checkable

from engine.config import SamplingParams
from engine.core.stats import EngineStats
from engine.types import Event, Message, ModelInfo


class ChatStream(Protocol):
    """One answer under way: iterate it (from a thread or an event loop) for its events.

    The last event is always `Finished`, or the iteration raises an EngineError. `cancel` stops an
    answer: it returns at once, and the engine frees the slot within one step.
    """

    def __iter__(self) -> Iterator[Event]: ...

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def batch(self, seconds: float) -> list[Event]:
        """The events of so many seconds, or of as many as it takes until there is one; the end comes at once.

        Instead of iterating, for who shows an answer now and then: the event loop sleeps meanwhile.
        """
        ...

    def cancel(self) -> None:
        """Stop the answer; the stream then ends with Finished(reason="cancelled")."""
        ...


class ChatBackend(Protocol):
    """Something that answers chats with one model."""

    @property
    def info(self) -> ModelInfo:
        """The model that answers."""
        ...

    def stream(self, messages: Sequence[Message], sampling: SamplingParams) -> ChatStream:
        """Start an answer to `messages`; raises RequestError or QueueFull at once if it cannot be served."""
        ...

    def close(self) -> None:
        """Stop all answers and free the model."""
        ...


@runtime_checkable
class SupportsHealth(Protocol):
    """A backend that may fail for good."""

    @property
    def down(self) -> bool:
        """Whether it answers nobody any more."""
        ...


@runtime_checkable
class SupportsStats(Protocol):
    """A backend that counts what it does."""

    def stats(self) -> EngineStats:
        """What was done so far; from any thread."""
        ...
