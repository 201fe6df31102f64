"""A request to the engine and the events that it emits while it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict


@dataclass(frozen=True)
class ModelInfo:
    """A description of the model for users. `size` is in bytes, `context` in tokens.

    `recommended` has values for SamplingParams from the file's metadata. `adapter` is the path of the LoRA
    adapter in use, or "".
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
class TextToEmbed:
    """A text of which the embedding is wanted, in place of an answer."""

    text: str


PromptInput = Sequence[Message] | str | TextToEmbed
"""What an answer follows: a conversation, or a text as it is, without the chat template."""


@dataclass(frozen=True)
class EmbeddingVector:
    """The embedding of a text, of length 1; a Finished follows."""

    vector: list[float]


@dataclass(frozen=True)
class MessagesDropped:
    """The first event when the conversation outgrew its context and lost its oldest turns.

    `messages` is how many were dropped, `tokens` by how many the prompt became shorter.
    """

    messages: int
    tokens: int


@dataclass(frozen=True)
class Queued:
    """The request waits for a slot; `position` 1 is next."""

    position: int


@dataclass(frozen=True)
class PrefillProgress:
    """Prefill progress: `done` of `total` prompt tokens, `cached` of which came from a cache."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer; always whole characters."""

    delta: str


@dataclass(frozen=True)
class RequestStats:
    """Statistics of one request: times in seconds, counts in tokens."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Return the decoding rate, without queue and prefill."""
        return self.generated_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class Finished:
    """The last event: why the answer ended (by itself, at a limit, or by a cancel), and its statistics.

    `stop` is the stop string that ended it, "" if none did.
    """

    reason: FinishReason
    stats: RequestStats
    stop: str = ""


Event = MessagesDropped | Queued | PrefillProgress | TextDelta | EmbeddingVector | Finished
ProgressCallback = Callable[[float], bool]
"""Called with the progress of a step, 0 to 1; returns False to stop it."""


def no_progress(_: float) -> bool:
    """Ignore the progress and continue."""
    return True


def scaled(progress: ProgressCallback, begin: float, end: float) -> ProgressCallback:
    """Return the callback for a step that covers `begin` to `end` of a longer one."""
    return lambda share: progress(begin + (end - begin) * share)


def rising(progress: ProgressCallback) -> ProgressCallback:
    """Return the callback for a step that may begin again: it never reports less than before."""
    most = 0.0

    def report(share: float) -> bool:
        nonlocal most
        most = max(most, share)
        return progress(most)

    return report
