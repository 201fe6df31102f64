"""A request to the engine and the events that it emits while it is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "time", "cancelled"]


class Message(TypedDict):
    """One message of a conversation, as chat templates take it."""

    role: Role
    content: str


@dataclass(frozen=True)
class Dropped:
    """The first event, when the conversation outgrew its context: its oldest turns were left out.

    `messages` is how many, `tokens` how much shorter the prompt became.
    """

    messages: int
    tokens: int


@dataclass(frozen=True)
class Queued:
    """The request waits for a slot; `position` 1 is the next to be served."""

    position: int


@dataclass(frozen=True)
class Prefill:
    """The prompt is being read: `done` of `total` tokens, of which `cached` came from an earlier turn."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True)
class Text:
    """The next piece of the answer; always whole characters."""

    delta: str


@dataclass(frozen=True)
class RequestStats:
    """How one request went: times in seconds, counts in tokens."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Decoding rate, without the queue and the prompt."""
        return self.generated_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class Finished:
    """The last event: why the answer ended (by itself, at a limit, or by a cancel) and how it went."""

    reason: FinishReason
    stats: RequestStats


Event = Dropped | Queued | Prefill | Text | Finished
