"""Caches of idle conversations that lost their slots, kept in RAM within a budget of bytes. Plain Python.

A cache that is restored is copied in milliseconds; computing it again takes as long as reading the whole
conversation does. Least recently used goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class SavedState:
    """One conversation's cache: the tokens in it, and the runner's bytes."""

    tokens: list[int]
    state: bytearray


class PrefixCache:
    """Saved caches, at most `budget` bytes of them; 0 keeps none."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._saved: list[SavedState] = []  # the least recently used first

    def __len__(self) -> int:
        return len(self._saved)

    def find(self, tokens: Sequence[int], *, whole: bool = False) -> tuple[SavedState | None, int]:
        """The saved cache with the longest common prefix, and that prefix's length; (None, 0) without one.

        `whole` leaves out those that hold more than the prefix.
        """
        shared = [(common_prefix(saved.tokens, tokens), saved) for saved in self._saved]
        shared = [(length, saved) for length, saved in shared if not whole or length == len(saved.tokens)]
        length, best = max(shared, key=lambda pair: pair[0], default=(0, None))
        return (best, length) if length else (None, 0)

    def take(self, saved: SavedState, *, keep: bool) -> None:
        """Record that a cache is used again; `keep` leaves it here, as the most recently used."""
        self._saved.remove(saved)
        self.used -= len(saved.state)
        if keep:
            self.put(saved)

    def wants(self, tokens: Sequence[int], size: int) -> bool:
        """Whether a cache of `size` bytes fits the budget and is not here already."""
        return 0 < size <= self.budget and all(
            common_prefix(saved.tokens, tokens) < len(tokens) for saved in self._saved
        )

    def put(self, saved: SavedState) -> None:
        """Keep a cache that is wanted; others go for it, and so do beginnings of the same conversation."""
        for other in list(self._saved):
            if common_prefix(other.tokens, saved.tokens) == len(other.tokens):
                self.take(other, keep=False)
        while self._saved and self.used + len(saved.state) > self.budget:
            self.take(self._saved[0], keep=False)
        self._saved.append(saved)
        self.used += len(saved.state)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens two lists share."""
    most = min(len(left), len(right))
    if left[:most] == right[:most]:  # in C; the usual case of a conversation that goes on
        return most
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return most
