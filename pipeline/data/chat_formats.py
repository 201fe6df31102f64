"""Parse a line of a chat data set, in one of the formats of record_formats.py, into a Chat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pipeline.data.record_formats import as_messages
from pipeline.errors import InputError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class ChatTurn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation: an optional system turn, then user and assistant alternating.

    `line` is its line in `file`, counted from 1.
    """

    turns: tuple[ChatTurn, ...]
    line: int
    file: str = "the data set"

    @property
    def where(self) -> str:
        """Its file and line, for messages about it."""
        return f"{self.file}, line {self.line}"

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as messages for a chat template."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


def parse_line(file: str, number: int, line: bytes, *, require_answer: bool) -> Chat:
    """Parse line `number` of `file`. Raises InputError with the place, what is wrong and the fix.

    Without `require_answer` the chat may end with the user's turn.
    """
    where = f"{file}, line {number}"
    messages = as_messages(_record(where, line), where)
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f'{where}: there is no list "messages": write {{"messages": [{{"role": ..., ...}}]}}'
        )
    turns = tuple(_turn(f"{where}, message {place}", message) for place, message in enumerate(messages, 1))
    for problem in _order_problems(turns, require_answer):
        raise InputError(f"{where}{problem}")
    return Chat(turns, number, file)


def _record(where: str, line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_without_repetition)
    except _RepeatedKey as error:
        raise InputError(f"{where}: the key {error.args[0]!r} is there twice: keep one") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: this is not UTF-8 text: save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        if line.rstrip().endswith(b"},"):
            raise InputError(f"{where}: a comma ends the line: leave it out, one chat is one line") from None
        raise InputError(
            f'{where}: this is not JSON ({error}): write one {{"messages": [...]}} a line'
        ) from None


class _RepeatedKey(Exception):
    """A JSON object has the same key twice, of which json keeps the last."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(next(name for name in names if names.count(name) > 1)[:80])
    return found


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
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: it holds half a character (a lone \\ud8.. escape): write it out"
        ) from None
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
