"""The protocol between a server and the process that runs a model: JSON lines in both directions.

A line is `{"Name": {fields}}`, where Name is one of the dataclasses below. The server sends `Open` first, and
the process answers `Described`, `Progress` and `Opened`, or `Refused`. Afterwards each `Ask` is answered by
`Accepted`, then `Events` up to a Finished, or by `Failed` at any point. The numbers of requests and adapters
are the server's. The process ends when its input ends.

Both sides validate what they receive: the process works on strangers' files, so the server does not trust it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from common.dataclass_json import from_json, to_json_text
from common.text import map_texts
from engine import errors
from engine.config import EngineConfig, SamplingParams
from engine.core.stats import EngineStats
from engine.errors import EngineError, EngineStopped
from engine.types import (
    AnswerToScore,
    Event,
    Finished,
    ModelInfo,
    PromptInput,
    RequestStats,
    TextToEmbed,
    TextToRead,
    TextToScore,
    ToolRequest,
)

MAX_LINE = 16 << 20
"""The longest line in bytes; a process that sends a longer one is ended."""


@dataclass(frozen=True)
class Open:
    """Probe the GGUF at `path`, load it and start its engine."""

    path: str
    settings: EngineConfig


@dataclass(frozen=True)
class Attach:
    """Start another engine on the same weights, with the LoRA adapter at `path`."""

    adapter: int
    path: str


@dataclass(frozen=True)
class Detach:
    """Stop an adapter's engine and its answers."""

    adapter: int


SentPrompt = list[dict[str, Any]] | ToolRequest | str | TextToRead
"""A PromptInput of engine.types, as it is sent."""


@dataclass(frozen=True)
class Ask:
    """Start an answer to a PromptInput of engine.types; `adapter` 0 is the model without one."""

    request: int
    adapter: int
    prompt: SentPrompt
    sampling: SamplingParams


@dataclass(frozen=True)
class Cancel:
    """Stop an answer, or the preparation of its prompt."""

    request: int


@dataclass(frozen=True)
class Ping:
    """Ask for a Pong."""


_ERRORS: Mapping[str, type[EngineError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EngineError)
}
Command = Open | Attach | Detach | Ask | Cancel | Ping


@dataclass(frozen=True)
class Described:
    """The file was probed, and is now loaded."""

    info: ModelInfo


@dataclass(frozen=True)
class Progress:
    """How far `Open` or the Attach in progress got, from 0 to 1."""

    adapter: int
    share: float


@dataclass(frozen=True)
class Opened:
    """The model (adapter 0) or an adapter answers from now on."""

    adapter: int
    info: ModelInfo


@dataclass(frozen=True)
class Failure:
    """An EngineError by its class's name and its line."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: EngineError) -> Failure:
        """Return the failure for an error."""
        return cls(type(error).__name__, str(error))

    def error(self) -> EngineError:
        """Return the error again; an unknown kind is an EngineStopped."""
        return _ERRORS.get(self.kind, EngineStopped)(self.text)


@dataclass(frozen=True)
class Refused:
    """The model or an adapter cannot be opened; after a refused Open the process ends."""

    adapter: int
    failure: Failure


@dataclass(frozen=True)
class Accepted:
    """The prompt fits and is queued."""

    request: int


@dataclass(frozen=True)
class Events:
    """The next events of an answer; the last one is Finished."""

    request: int
    events: list[Event]


@dataclass(frozen=True)
class Failed:
    """The answer is refused, or ended by an error."""

    request: int
    failure: Failure


@dataclass(frozen=True)
class Pong:
    """The process is alive. `stats` are the counters of the engines, by adapter."""

    stats: dict[int, EngineStats] = field(default_factory=dict)


Reply = Described | Progress | Opened | Refused | Accepted | Events | Failed | Pong

COMMANDS: Mapping[str, type[Command]] = {
    kind.__name__: kind for kind in (Open, Attach, Detach, Ask, Cancel, Ping)
}
REPLIES: Mapping[str, type[Reply]] = {
    kind.__name__: kind for kind in (Described, Progress, Opened, Refused, Accepted, Events, Failed, Pong)
}


CANCELLED = Finished("cancelled", RequestStats(0, 0, 0, 0.0, 0.0, 0.0))
"""The end of an answer that was stopped before its prompt was queued."""


class ProtocolError(Exception):
    """A line is no message of this protocol."""


def encode(message: Command | Reply) -> bytes:
    """Return the line of a message. Raises ProtocolError for text that is no valid Unicode."""
    try:
        content = to_json_text(message)
    except ValueError as error:
        raise ProtocolError(f"{type(message).__name__} has text that is not valid Unicode") from error
    return b'{"%s":%s}\n' % (type(message).__name__.encode(), content)


def sendable(prompt: PromptInput) -> SentPrompt:
    """Replace lone surrogates, which JSON in UTF-8 cannot carry, by question marks."""
    if isinstance(prompt, TextToEmbed):
        return TextToEmbed(_valid(prompt.text))
    if isinstance(prompt, TextToScore):
        text = prompt.prompt
        return replace(prompt, prompt=_valid(text) if isinstance(text, str) else text)
    if isinstance(prompt, AnswerToScore):
        return replace(prompt, messages=map_texts(prompt.messages, _valid))
    if isinstance(prompt, str):
        return _valid(prompt)
    if isinstance(prompt, ToolRequest):
        messages, functions = map_texts([*prompt.messages], _valid), map_texts(prompt.functions, _valid)
        return replace(prompt, messages=messages, functions=functions)
    return [dict(map_texts(m, _valid)) for m in prompt]


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def request_of(line: bytes) -> int | None:
    """Return the number of the request in a line that is no valid Ask."""
    try:
        number = json.loads(line)["Ask"]["request"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return number if isinstance(number, int) else None


M = TypeVar("M", Command, Reply)


def decode(line: bytes, kinds: Mapping[str, type[M]]) -> M:
    """Return the message of a line, one of `kinds`. Raises ProtocolError."""
    try:
        ((name, content),) = json.loads(line).items()
        return from_json(kinds[name], content)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{line[:80]!r} is no message: {type(error).__name__}") from error
