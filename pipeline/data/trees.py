"""Message trees, as OpenAssistant's oasst1 has them: flat rows that name their parents, or nested replies.

One conversation is taken from each tree, its best-ranked path: at each message the reply of the lowest rank
(people ranked them; 0 is the best), and the first one among those without a rank. openassistant-guanaco was
made of oasst1 in this way. A path ends with an answer: a last question without one is left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from common.text import pluralize
from pipeline.errors import InputError

_FLAT = ("message_id", "parent_id", "text", "role")
_ROLES = {"prompter": "user"}
Message = TypeVar("Message")


@dataclass(frozen=True)
class FlatMessage:
    """A row of a flat data set: its number, and the record."""

    number: int
    record: dict[str, Any]

    @property
    def id(self) -> str:
        """The message's id."""
        return str(self.record["message_id"])


@dataclass(frozen=True)
class TreePath:
    """The best path of a tree: its first message's number and record, and its messages."""

    number: int
    record: dict[str, Any]
    messages: list[dict[str, Any]]


def is_flat(record: object) -> bool:
    """Return whether a record is a message of a tree, which names its parent."""
    return isinstance(record, dict) and all(key in record for key in _FLAT)


def is_nested(record: object) -> bool:
    """Return whether a record is a whole tree: {"prompt": {"text": ..., "replies": [...]}}."""
    if not isinstance(record, dict):
        return False
    prompt = record.get("prompt")
    return isinstance(prompt, dict) and "text" in prompt and isinstance(prompt.get("replies"), list)


def flat_paths(
    name: str, numbered: Iterable[tuple[int, object]], *, require_answer: bool
) -> tuple[list[TreePath], list[str]]:
    """Return the best path of each tree, and notes on what was left out.

    Raises InputError, with the row, for a message that is none or whose parent is not there.
    """
    messages = [FlatMessage(number, _flat(name, number, record)) for number, record in numbered]
    replies: dict[str | None, list[FlatMessage]] = defaultdict(list)
    known: set[str] = set()
    for message in messages:
        if message.id in known:
            raise InputError(
                f"{name}, row {message.number}: the message_id {message.id!r} is there twice: keep one"
            )
        known.add(message.id)
        replies[message.record["parent_id"] or None].append(message)
    for message in messages:
        parent = message.record["parent_id"]
        if parent and parent not in known:
            raise InputError(
                f"{name}, row {message.number}: its parent_id {str(parent)!r} is no message_id here: "
                "give the whole trees, or remove the rows below a removed one"
            )
    roots = replies[None]
    paths = [
        TreePath(root.number, root.record, [_flat_message(one) for one in path])
        for root in roots
        if (path := _best_path(root, lambda one: replies[one.id], lambda one: one.record, require_answer))
    ]
    return paths, _notes(len(messages), roots, paths)


def nested_path(record: dict[str, Any], number: int, *, require_answer: bool) -> TreePath:
    """Return the best path of a nested tree; without messages if it has no answer."""
    path = _best_path(record["prompt"], _replies, lambda one: one, require_answer)
    return TreePath(number, {**record["prompt"], **record}, [_message(one) for one in path])


def _best_path(
    root: Message,
    replies: Callable[[Message], Sequence[Message]],
    record: Callable[[Message], dict[str, Any]],
    require_answer: bool,
) -> list[Message]:
    path, following = [], [root]
    while kept := [one for one in following if not record(one).get("deleted")]:
        path.append(min(kept, key=lambda one: _rank(record(one))))
        following = list(replies(path[-1]))
    if require_answer:
        while path and record(path[-1]).get("role") != "assistant":
            path.pop()
    return path


def _rank(record: dict[str, Any]) -> float:
    rank = record.get("rank")
    return float(rank) if isinstance(rank, int | float) and not math.isnan(rank) else float("inf")


def _replies(message: dict[str, Any]) -> list[dict[str, Any]]:
    found = message.get("replies")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _flat(name: str, number: int, record: object) -> dict[str, Any]:
    if isinstance(record, InputError):
        raise record
    if not isinstance(record, dict) or not is_flat(record):
        raise InputError(
            f"{name}, row {number}: it is no message of a tree: it needs the keys {', '.join(_FLAT)}"
        )
    return record


def _flat_message(message: FlatMessage) -> dict[str, Any]:
    return _message(message.record)


def _message(record: dict[str, Any]) -> dict[str, Any]:
    role = record.get("role")
    return {"role": _ROLES.get(str(role), role), "content": record.get("text")}


def _notes(messages: int, roots: Sequence[object], paths: Sequence[TreePath]) -> list[str]:
    used = sum(len(path.messages) for path in paths)
    notes = [
        f"{pluralize(messages, 'message')} in {pluralize(len(roots), 'tree')}: the best-ranked path of each, "
        f"{pluralize(used, 'message')} in {pluralize(len(paths), 'chat')}"
    ]
    if bare := len(roots) - len(paths):
        notes.append(f"{pluralize(bare, 'tree was', 'trees were')} left out, without an answer")
    return notes
