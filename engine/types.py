"""A request to the engine and the events that it emits while it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict


@dataclass(frozen=True)
class ModelInfo:
    """What a person wants to know about the model that answers. `size` is in bytes, `context` in tokens.

    `recommended` has values of SamplingParams that the model's makers wrote into the file, if any.
    `adapter` is the path of the LoRA adapter that is on it, or "".
    """

    name: str
    path: str
    architecture: str
    quantization: str
    parameters: int
    size: int
    context: int
    cpu_variant: str
    threads: int
    recommended: Mapping[str, float] = field(default_factory=dict)
    adapter: str = ""


Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "time", "cancelled"]


class Message(TypedDict):
    """One message of a conversation, as chat templates take it."""

    role: Role
    content: str


@dataclass(frozen=True)
class MessagesDropped:
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
class PrefillProgress:
    """The prompt is being read: `done` of `total` tokens, of which `cached` came from an earlier turn."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True)
class TextDelta:
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


Event = MessagesDropped | Queued | PrefillProgress | TextDelta | Finished
ProgressCallback = Callable[[float], bool]
"""Is told how far a step is, from 0 to 1, and says whether to go on with it."""


def no_progress(_: float) -> bool:
    """For a step that nobody watches: go on."""
    return True


def scaled(progress: ProgressCallback, begin: float, end: float) -> ProgressCallback:
    """The `progress` of a step that leads from `begin` to `end` of a longer one."""
    return lambda share: progress(begin + (end - begin) * share)
