"""Other formats of chat data, put as {"messages": [...]}: ShareGPT, Alpaca, prompt and completion.

Nothing is checked here: what is wrong in such a record is wrong in its messages, and told of them.
"""

from __future__ import annotations

from typing import Any

_KEYS = {"from": "role", "value": "content"}
_ROLES = {"human": "user", "gpt": "assistant"}


def as_messages(record: object) -> object:
    """The messages of a record in a format that is known; None for any other."""
    if not isinstance(record, dict):
        return None
    if "messages" in record:
        return record["messages"]
    if isinstance(talk := record.get("conversations"), list):
        return [_sharegpt(turn) for turn in talk]
    if "instruction" in record and "output" in record:
        return _alpaca(record)
    if "prompt" in record and "completion" in record:
        return [*_side("user", record["prompt"]), *_side("assistant", record["completion"])]
    return None


def _sharegpt(turn: object) -> object:
    if not isinstance(turn, dict):
        return turn
    named = {_KEYS.get(key, key): value for key, value in turn.items()}
    role = named.get("role")
    return {**named, "role": _ROLES.get(role, role)} if isinstance(role, str) else named


def _alpaca(record: dict[str, Any]) -> list[object]:
    asked, more = record["instruction"], record.get("input")
    system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    content = f"{asked}\n\n{more}" if isinstance(asked, str) and isinstance(more, str) and more else asked
    return [*system, *_side("user", content), *_side("assistant", record["output"])]


def _side(role: str, said: object) -> list[object]:
    """Text, or messages as TRL has them on both sides."""
    return said if isinstance(said, list) else [{"role": role, "content": said}]
