"""A request to the engine and the events that it emits while it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

CALL_ID = "\0"
"""Stands for the id of a call in the texts of a ToolFormat."""


@dataclass(frozen=True)
class ArgumentFormat:
    """How a model writes an argument outside of a JSON object: `before` NAME `between` VALUE `after`.

    Texts are written as they are, other values as JSON.
    """

    before: str
    between: str
    after: str


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes calls of functions: `begin` NAME `middle` ARGUMENTS `end`.

    `separator` is what follows the arguments of a call when another one follows, up to the name of that; None
    if there is one call at most. The arguments are a JSON object, or each has the form of `argument`.
    `trigger` is the part of `begin` by which a call is known, anywhere in an answer if `anywhere`, else only
    at its beginning. `short_ids` are of nine letters and digits. An answer may have a thought first, from
    `thought_begin` ("" if the prompt begins it) to `thought_end`.
    """

    begin: str
    middle: str
    separator: str | None
    end: str
    trigger: str
    anywhere: bool
    argument: ArgumentFormat | None = None
    short_ids: bool = False
    thought_begin: str = ""
    thought_end: str = ""


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
    tools: ToolFormat | None = None


Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "time", "cancelled"]


class ToolCall(TypedDict):
    """A call of a function that the assistant made; `id` is named by its result."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(TypedDict):
    """One message of a conversation.

    The assistant's may have `tool_calls`, beside a text or "". A message of the role tool is the result of
    the call `tool_call_id`, of the function `name`.
    """

    role: Role
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


@dataclass(frozen=True)
class ToolRequest:
    """A conversation in which the model may call functions.

    `functions` have a name, a description and `parameters`, the JSON schema of an object, as in OpenAI's API.
    With the choice "required", the answer is a call; if `parallel`, perhaps several. `only` names the one
    function that may be called, "" for any.
    """

    messages: Sequence[Message]
    functions: list[dict[str, Any]]
    choice: Literal["auto", "required"] = "auto"
    parallel: bool = True
    only: str = ""


@dataclass(frozen=True)
class TextToEmbed:
    """A text of which the embedding is wanted, in place of an answer."""

    text: str


@dataclass(frozen=True)
class TextToScore:
    """A text, or its token ids, of which the tokens' log-probabilities are wanted, in place of an answer.

    `top` is how many of the likeliest tokens are wanted at each place.
    """

    prompt: str | list[int]
    top: int = 0


@dataclass(frozen=True)
class AnswerToScore:
    """A conversation that ends with an answer, of whose tokens the log-probabilities are wanted.

    It loses its oldest turns where it is too long to be read. `top` is as in TextToScore.
    """

    messages: list[Message]
    top: int = 0


TextToRead = TextToEmbed | TextToScore | AnswerToScore
"""What is only read, and gets no answer."""
PromptInput = Sequence[Message] | ToolRequest | str | TextToRead
"""What an answer follows: a conversation, or a text as it is, without the chat template."""


@dataclass(frozen=True)
class EmbeddingVector:
    """The embedding of a text, of length 1; a Finished follows."""

    vector: list[float]


@dataclass(frozen=True)
class TextScores:
    """The tokens of a text or an answer and the likeliest one after it, as spelled; a Finished follows.

    `log_probs` are theirs, and `likeliest` the likeliest tokens at each place; None for a text's first
    token, which nothing predicts.
    """

    tokens: list[str]
    log_probs: list[float | None]
    likeliest: list[dict[str, float] | None]


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


Event = MessagesDropped | Queued | PrefillProgress | TextDelta | EmbeddingVector | TextScores | Finished
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
