"""The rows of a data set: chats, whose answers are trained on, and plain texts, trained on whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.errors import InputError

Role = Literal["system", "user", "assistant"]
Unit = Literal["line", "row"]
"""How a file's rows are counted: lines of JSONL, or rows of a table or list."""


@dataclass(frozen=True)
class ChatTurn:
    """One message of a conversation."""

    role: Role
    content: str


class _Placed:
    """What has a place in a file."""

    file: str
    line: int
    unit: Unit

    @property
    def where(self) -> str:
        """Its file and line, for messages about it."""
        return f"{self.file}, {self.unit} {self.line}"


@dataclass(frozen=True)
class Chat(_Placed):
    """A conversation: an optional system turn, then user and assistant alternating.

    `line` is its line (or row, as `unit` says) in `file`, counted from 1. `category` is the value of the
    field that DataOptions names, None without one.
    """

    turns: tuple[ChatTurn, ...]
    line: int
    file: str = "the data set"
    category: str | None = None
    unit: Unit = "line"

    @property
    def content(self) -> tuple[ChatTurn, ...]:
        """What makes two rows copies of each other."""
        return self.turns

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as messages for a chat template."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


@dataclass(frozen=True)
class PlainText(_Placed):
    """A text that is trained on whole. The other fields are as in Chat."""

    text: str
    line: int
    file: str = "the data set"
    category: str | None = None
    unit: Unit = "line"

    @property
    def content(self) -> str:
        """What makes two rows copies of each other."""
        return self.text


Row = Chat | PlainText


def row_record(row: Row, field: str | None = None) -> dict[str, Any]:
    """Return {"messages": [...]} of a chat or {"text": ...} of a text, and its category under `field`."""
    record: dict[str, Any] = {"messages": row.messages()} if isinstance(row, Chat) else {"text": row.text}
    return record if field is None else {**record, field: row.category}


def to_jsonl(rows: Iterable[Row], field: str | None = None) -> str:
    """Return rows as JSON Lines, which the reader takes (plain texts with --text '{text}')."""
    return "".join(json.dumps(row_record(row, field), ensure_ascii=False) + "\n" for row in rows)


def rows_sha256(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of the rows' contents in their order, in hex: the same for each kind of file."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(to_jsonl([row]).encode("utf-8"))
    return digest.hexdigest()


class UnknownForm(InputError):
    """A record lacks the keys of each known form, or those that were named: mostly all records do then."""


def parse_turns(messages: object, where: str, *, require_answer: bool) -> tuple[ChatTurn, ...]:
    """Return the messages as turns. Raises InputError that begins with `where`.

    Without `require_answer` they may end with the user's turn.
    """
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f'{where}: there is no list "messages": write {{"messages": [{{"role": ..., ...}}]}}'
        )
    turns = tuple(_turn(f"{where}, message {place}", message) for place, message in enumerate(messages, 1))
    for problem in _order_problems(turns, require_answer):
        raise InputError(f"{where}{problem}")
    return turns


def require_text(text: str, where: str) -> None:
    """Raise InputError for a text that is no valid Unicode, as half of an emoji's escape makes it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: it holds half a character (a lone \\ud8.. escape): write it out"
        ) from None


def _turn(where: str, message: object) -> ChatTurn:
    if not isinstance(message, dict):
        raise InputError(f'{where}: it is no object: write {{"role": "user", "content": "..."}}')
    content = message.get("content")
    role: Any = message.get("role")
    if role not in get_args(Role):
        raise InputError(f"{where}: the role {role!r} is unknown: use {', '.join(get_args(Role))}")
    if isinstance(content, list):
        raise InputError(f"{where}: the {role}'s content is a list of parts: write its text as one string")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: the {role}'s content is empty or no text: write it, or remove the chat")
    others = sorted(str(key) for key in message.keys() - {"role", "content"} - _weights(message))
    if others:
        raise InputError(f"{where}: {others[0]!r} would be lost in training: only role and content are used")
    require_text(content, where)
    return ChatTurn(role, content)


def _weights(message: dict[str, Any]) -> set[str]:
    """Return the keys that say what is done anyway: answers are trained on, other messages are not."""
    trained = message["role"] == "assistant"
    return {key for key in ("weight", "train") if key in message and message[key] in (int(trained), trained)}


def _order_problems(turns: tuple[ChatTurn, ...], require_answer: bool) -> Iterator[str]:
    first = 1 if turns[0].role == "system" else 0
    for place, turn in enumerate(turns[first:], first + 1):
        wanted = "user" if (place - first) % 2 else "assistant"
        if turn.role != wanted:
            yield (
                f", message {place}: the role is {turn.role!r} where {wanted!r} is due: "
                "after an optional system message, user and assistant take turns"
            )
    roles = [turn.role for turn in turns]
    if require_answer and "assistant" not in roles:
        yield ": there is no assistant message, so nothing to learn: add the answer"
    if require_answer and roles[-1] != "assistant":
        yield ": the last message is not the assistant's: add the answer, or remove the question"
    if "user" not in roles:
        yield ": there is no user message: add the question"
