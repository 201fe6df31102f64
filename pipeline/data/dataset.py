"""Data sets: the names that other packages use, and the split into training and held-out rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from common.text import pluralize
from pipeline.data.encoding import IGNORED, Example, TrainOn, encode_chat, encode_row, render
from pipeline.data.reader import collect_errors, read_chats, read_data
from pipeline.data.rows import Chat, ChatTurn, PlainText, Row
from pipeline.errors import InputError

__all__ = [
    "IGNORED",
    "Chat",
    "ChatTurn",
    "Example",
    "PlainText",
    "Row",
    "TrainOn",
    "collect_errors",
    "encode_chat",
    "encode_row",
    "read_chats",
    "read_data",
    "render",
    "split_chats",
    "split_rows",
]
AnyRow = TypeVar("AnyRow", bound=Row)


def split_rows(rows: Sequence[AnyRow], held_out: float, seed: int) -> tuple[list[AnyRow], list[AnyRow]]:
    """Split into (train, held-out), deterministically for a seed.

    `held_out` is a fraction, 0 to below 1; above 0 at least one row is held out. Copies of a row are on
    the same side, so that no held-out row is trained on. Raises InputError when too few would be left.
    """
    distinct = list(dict.fromkeys(row.content for row in rows))
    count = max(1, round(len(distinct) * held_out)) if held_out > 0 else 0
    if count >= len(distinct):
        name = "chat" if all(isinstance(row, Chat) for row in rows) else "row"
        raise InputError(
            f"{pluralize(len(distinct), f'different {name} is', f'different {name}s are')} too few "
            f"to hold out {held_out:g} of them: add {name}s, or use --held-out 0"
        )
    random.Random(seed).shuffle(distinct)
    held = set(distinct[:count])
    return [row for row in rows if row.content not in held], [row for row in rows if row.content in held]


def split_chats(chats: Sequence[Chat], held_out: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """Split chats as split_rows does."""
    return split_rows(chats, held_out, seed)
