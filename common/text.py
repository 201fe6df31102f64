"""Numbers of things in sentences, as people say them: one chat was, two chats were."""

from __future__ import annotations

import math
from typing import Any


def size_text(size: int) -> str:
    """Bytes as a person says them: 1.4 GB, 95 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def parameters_text(count: int) -> str:
    """A parameter count as models are named: 3.8 B, 135 M."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{max(1, round(count / 1e6))} M"


def pluralize(count: int, one: str, many: str = "") -> str:
    """The number with its noun, and with a verb where it is given with both: "1 chat was", "2 chats were"."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def all_of_them(count: int, one: str, many: str) -> str:
    """The same of all that there are: "The one text gives", "All 79 texts give"."""
    return f"The one {one}" if count == 1 else f"All {count} {many}"


def and_more(count: int, one: str) -> str:
    """What follows an example of `count` others: nothing, " and 1 more token", " and 2 more tokens"."""
    return f" and {pluralize(count, f'more {one}')}" if count else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nan_to_none(tree: Any) -> Any:
    """The same dicts, lists and tuples with None for each number that is none, or infinite."""
    if isinstance(tree, dict):
        return {key: nan_to_none(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [nan_to_none(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
