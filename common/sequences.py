"""Samples of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sample_evenly(items: Sequence[T], max_items: int) -> list[T]:
    """Return at most `max_items` of the items, evenly spaced."""
    count = min(max_items, len(items))
    return [items[index * len(items) // count] for index in range(count)]
