"""Interfaces that the engine needs of a model, implemented by engine.llama.runner.Runner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.config import SamplingParams


class DecodeAborted(Exception):
    """A decode ended early because it was asked to; the engine finds out how far the caches got."""


@dataclass(frozen=True)
class BatchRow:
    """Consecutive tokens of one slot, the first at position `start`; the last `outputs` give logits."""

    slot: int
    start: int
    tokens: Sequence[int]
    outputs: int

    @property
    def reads(self) -> bool:
        """Whether it is a piece of a prompt, and no answer's next token with its guesses."""
        return self.outputs < len(self.tokens)


class TokenizerProtocol(Protocol):
    """What the engine needs of a vocabulary."""

    is_sentencepiece: bool

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to an answer."""
        ...


class ModelRunner(Protocol):
    """What the engine needs of a model."""

    can_cut: bool  # whether the end of a cache can be taken off; a recurrent state has no such end

    @property
    def vocab(self) -> TokenizerProtocol:
        """The model's vocabulary."""
        ...

    def prepare(self, slot: int, keep: int, copy_from: int | None = None) -> int:
        """Cut a slot's cache to `keep` tokens; returns how many are kept."""
        ...

    def state_size(self, slot: int) -> int:
        """Bytes that `save` would give."""
        ...

    def save(self, slot: int) -> bytearray:
        """The slot's whole cache."""
        ...

    def restore(self, slot: int, state: bytearray) -> bool:
        """Put a saved cache in the place of the slot's; False if it did not work, and the slot is empty."""
        ...

    def decode(self, rows: Sequence[BatchRow]) -> None:
        """Compute rows in one batch. Raises DecodeAborted."""
        ...

    def exact_rows(self, sizes: Sequence[int]) -> int:
        """The largest of `sizes` up to which a batch gives bit for bit what single tokens give.

        Computes in slot 0, which is empty afterwards.
        """
        ...

    def start(self, slot: int, sampling: SamplingParams) -> None:
        """Give the slot a fresh sampler."""
        ...

    def stop(self, slot: int) -> None:
        """Drop the slot's sampler."""
        ...

    def sample(self, slot: int, output: int = 0) -> int:
        """The slot's next token, from one of its outputs in the last batch; each in order, and once.

        Raises TooSlow when its grammar takes too long.
        """
        ...

    def abort(self) -> None:
        """End the decode in progress early; from any thread."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...
