"""The columns of a record that a user names: of a chat, of a plain text, of a category."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pipeline.data.options import DataOptions
from pipeline.data.record_files import keys_text
from pipeline.data.rows import UnknownForm
from pipeline.errors import InputError


def chat_of_columns(record: object, options: DataOptions, where: str) -> list[dict[str, str]]:
    """Return the messages that --columns names."""
    text = {
        side: column_text(record, column, where, "--columns", optional=side in ("system", "context"))
        for side, column in options.named_columns.items()
    }
    question = "\n\n".join(part for part in (text["question"], text.get("context", "")) if part.strip())
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": text["answer"]}]
    if system := text.get("system", "").strip():
        messages.insert(0, {"role": "system", "content": system})
    return messages


def column_text(record: object, column: str, where: str, option: str, *, optional: bool = False) -> str:
    """Return a column's value as text: a list of texts with commas, nothing as an empty text."""
    value = _field(record, column, where, option)
    if value is None and optional:
        return ""
    if value is None:
        raise InputError(f"{where}: {column!r} is empty: write it, or remove the row")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    if isinstance(value, list | dict | bytes):
        raise InputError(
            f"{where}: {column!r} is no text but a {type(value).__name__}: name another column in {option}"
        )
    return str(value)


def category_of(record: object, field: str | None, where: str) -> str | None:
    """Return the text in the column `field`. Raises InputError where there is none."""
    if field is None:
        return None
    value = _field(record, field, where, "--field")
    if isinstance(value, list | dict | bytes) or value is None or not str(value).strip():
        raise InputError(
            f"{where}: {field!r} is {value!r:.40}, which names no category: write one text there"
        )
    return str(value).strip()


def _field(record: object, column: str, where: str, option: str) -> Any:
    if not isinstance(record, dict):
        raise InputError(f"{where}: it is no object with columns: write {{{column!r}: ...}}")
    if column not in record:
        alike = [key for key in record if str(key).strip().lower() == column.lower()]
        if len(alike) == 1:
            return record[alike[0]]
        close = get_close_matches(column, [str(key) for key in record], 1)
        raise UnknownForm(
            f"{where}: {option} names {column!r}, and the row has only {keys_text(record)}"
            + (f": use {close[0]!r}" if close else "")
        )
    return record[column]
