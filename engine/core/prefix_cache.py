"""Prefix cache: KV caches of conversations that lost their slots, in RAM within a budget of bytes (LRU).

Restoring a cache takes milliseconds; computing it again takes as long as the prefill of the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SavedState:
    """One conversation's KV cache: its tokens, its bytes from ModelRunner.save, and Slot.prompts."""

    tokens: list[int]
    state: bytearray
    prompts: Mapping[int, Logits] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return the bytes that it takes."""
        return len(self.state) + sum(logits.nbytes for logits in self.prompts.values())


class PrefixCache:
    """Saved caches of at most `budget` bytes together; 0 disables it."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._saved: list[SavedState] = []  # the least recently used first

    def __len__(self) -> int:
        return len(self._saved)

    def find(self, tokens: Sequence[int], *, whole: bool = False) -> tuple[SavedState | None, int]:
        """Return the saved cache with the longest common prefix, and that prefix's length, or (None, 0).

        `whole` considers only caches that hold nothing beyond the prefix.
        """
        shared = [(common_prefix(saved.tokens, tokens), saved) for saved in self._saved]
        shared = [(length, saved) for length, saved in shared if not whole or length == len(saved.tokens)]
        length, best = max(shared, key=lambda pair: pair[0], default=(0, None))
        return (best, length) if length else (None, 0)

    def pop(self, saved: SavedState, *, keep: bool) -> None:
        """Remove a cache that is being restored, or with `keep`, mark it as the most recently used."""
        self._saved.remove(saved)
        self.used -= saved.size
        if keep:
            self.insert(saved)

    def accepts(self, tokens: Sequence[int], size: int) -> bool:
        """Return whether a cache of `size` bytes fits the budget and is not covered by a saved one."""
        return 0 < size <= self.budget and all(
            common_prefix(saved.tokens, tokens) < len(tokens) for saved in self._saved
        )

    def insert(self, saved: SavedState) -> None:
        """Save an accepted cache; evicts prefixes of it, then the least recently used, to make room."""
        for other in list(self._saved):
            if common_prefix(other.tokens, saved.tokens) == len(other.tokens):
                self.pop(other, keep=False)
        while self._saved and self.used + saved.size > self.budget:
            self.pop(self._saved[0], keep=False)
        self._saved.append(saved)
        self.used += saved.size


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the common prefix of two token lists."""
    longest = min(len(left), len(right))
    if left[:longest] == right[:longest]:  # in C; the usual case of a conversation that goes on
        return longest
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return longest
