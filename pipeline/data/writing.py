"""Write rows as JSON Lines, and identify them by a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pipeline.data.rows import Chat, Row


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
