"""Dataclasses to JSON and back: requests to worker processes, and stored records.

pydantic takes 0.1 s to import, so the functions import it when they are called.
"""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: object) -> dict[str, Any]:
    """Return a dataclass as JSON values; paths become strings, tuples lists."""
    from pydantic import TypeAdapter

    content: dict[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json")
    return content


def from_json(cls: type[T], content: object) -> T:
    """Return the dataclass that `to_json` gave `content` for. Raises pydantic's ValidationError."""
    from pydantic import TypeAdapter

    value: T = TypeAdapter(cls).validate_python(content)
    return value


def from_json_text(cls: type[T], text: bytes, *, strict: bool) -> T:
    """Return the dataclass that the JSON `text` holds. Raises pydantic's ValidationError.

    Keys that are no fields are refused if `strict`, or else ignored.
    """
    from pydantic import TypeAdapter

    value: T = TypeAdapter(cls).validate_json(text, extra="forbid" if strict else "ignore")
    return value
