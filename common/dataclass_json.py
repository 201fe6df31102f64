"""Dataclasses to JSON and back: messages between processes, and stored records.

pydantic takes 0.1 s to import, so it is imported by the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


_adapters: dict[Any, TypeAdapter[Any]] = {}  # making one takes longer than a thousand uses


def _adapter(cls: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    if cls not in _adapters:
        _adapters[cls] = TypeAdapter(cls)
    return _adapters[cls]


def to_json(value: object) -> dict[str, Any]:
    """Return a dataclass as JSON values; paths become strings, tuples lists."""
    content: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return content


def to_json_text(value: object) -> bytes:
    """Return a dataclass as JSON in one line, in UTF-8. Its strings must not have lone surrogates."""
    return _adapter(type(value)).dump_json(value)


def from_json(cls: type[T], content: object) -> T:
    """Return the dataclass that `to_json` gave `content` for. Raises pydantic's ValidationError."""
    value: T = _adapter(cls).validate_python(content)
    return value


def from_json_text(cls: type[T], text: bytes, *, strict: bool) -> T:
    """Return the dataclass that the JSON `text` holds. Raises pydantic's ValidationError.

    Keys that are no fields are refused if `strict`, or else ignored.
    """
    value: T = _adapter(cls).validate_json(text, extra="forbid" if strict else "ignore")
    return value
