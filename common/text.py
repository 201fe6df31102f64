"""Texts for users: sizes, counts and plurals; and JSON-safe numbers."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def size_text(size: int) -> str:
    """Return a size in bytes as text: 1.4 GB, 95 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def parameters_text(count: int) -> str:
    """Return a parameter count as in model names: 3.8 B, 135 M."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{max(1, round(count / 1e6))} M"


def pluralize(count: int, one: str, many: str = "") -> str:
    """Return the count with its noun (and verb, if given with both): "1 chat was", "2 chats were"."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def all_of_them(count: int, one: str, many: str) -> str:
    """Return the subject for all of them: "The one text gives", "All 79 texts give"."""
    return f"The one {one}" if count == 1 else f"All {count} {many}"


def and_more(count: int, one: str) -> str:
    """Return the text after an example, for `count` others: "", " and 1 more token", ..."""
    return f" and {pluralize(count, f'more {one}')}" if count else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_FRAMES = 4  # the innermost ones, that a log shows of an error


def error_place(error: BaseException) -> str:
    """Return an error's type and where it was raised, in one line, for a log.

    Its message is left out, since it may quote what a user wrote: "KeyError at app.py:3 (main), ...".
    """
    frames = traceback.extract_tb(error.__traceback__)[: -_FRAMES - 1 : -1]
    places = [f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno} ({one.name})" for one in frames]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    of = f", caused by {error_place(cause)}" if cause is not None else ""
    return f"{type(error).__name__} at {', '.join(places) or 'an unknown place'}{of}"


def nan_to_none(tree: Any) -> Any:
    """Return the same tree of dicts, lists and tuples, with None for NaN and infinite numbers."""
    if isinstance(tree, dict):
        return {key: nan_to_none(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [nan_to_none(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def map_texts(tree: Any, change: Callable[[str], str]) -> Any:
    """Return the same tree of dicts, lists and tuples with every text changed, also those of keys."""
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, dict):
        return {map_texts(key, change): map_texts(value, change) for key, value in tree.items()}
    return [map_texts(value, change) for value in tree] if isinstance(tree, list | tuple) else tree


def nesting(tree: Any) -> int:
    """Return how many lists and objects are inside one another, at most, in JSON values of any depth."""
    level, inner = 0, [tree]
    while inner := [value for value in inner if isinstance(value, dict | list)]:
        level += 1
        inner = [part for value in inner for part in (value.values() if isinstance(value, dict) else value)]
    return level


def common_beginning(first: str, second: str) -> str:
    """Return what two texts begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))]
