"""The model interface of the engine; engine.llama.runner.Runner implements it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.config import SamplingParams
from engine.core.prefix_cache import Logits


class DecodeAborted(Exception):
    """A decode ended early on request; the engine then checks how far the caches got."""


@dataclass(frozen=True)
class BatchRow:
    """Consecutive tokens of one slot, the first at position `start`; the last `outputs` give logits."""

    slot: int
    start: int
    tokens: Sequence[int]
    outputs: int

    @property
    def is_prefill(self) -> bool:
        """Return whether the row is part of a prompt, rather than an answer's next token with its draft."""
        return self.outputs < len(self.tokens)


class TokenizerProtocol(Protocol):
    """The tokenizer methods that the engine uses."""

    is_sentencepiece: bool

    def is_eog(self, token: int) -> bool:
        """Return whether the token ends the generation."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to the answer."""
        ...

    def text(self, token: int) -> str:
        """Return a token's spelling in the vocabulary."""
        ...


class ModelRunner(Protocol):
    """A model with one KV cache per slot."""

    can_truncate: bool  # False for recurrent states, whose last tokens cannot be removed

    @property
    def vocab(self) -> TokenizerProtocol:
        """The model's vocabulary."""
        ...

    def prepare(self, slot: int, keep: int, copy_from: int | None = None) -> int:
        """Truncate a slot's cache to `keep` tokens; return how many it holds afterwards."""
        ...

    def state_size(self, slot: int) -> int:
        """Return the number of bytes that `save` would return; 0 for a cache that is still to be copied."""
        ...

    def save(self, slot: int) -> bytearray:
        """Return the slot's whole cache."""
        ...

    def restore(self, slot: int, state: bytearray) -> bool:
        """Replace the slot's cache with a saved one; return False, with the slot empty, on failure."""
        ...

    def decode(self, rows: Sequence[BatchRow]) -> None:
        """Compute the rows in one batch. Raises DecodeAborted."""
        ...

    def exact_rows(self, sizes: Sequence[int]) -> int:
        """Return the largest of `sizes` up to which batches give the logits of single tokens, bit for bit.

        Uses slot 0, which is empty afterwards.
        """
        ...

    def start(self, slot: int, sampling: SamplingParams) -> None:
        """Create a sampler for the slot."""
        ...

    def stop(self, slot: int) -> None:
        """Free the slot's sampler."""
        ...

    def logits(self, slot: int, count: int) -> Logits:
        """Return a copy of the logits of the slot's first `count` outputs: [count, vocabulary]."""
        ...

    def sample(self, slot: int, output: int = 0, logits: Logits | None = None) -> int:
        """Sample the slot's next token from one of its outputs in the last batch, or from `logits`.

        Call it once per output, in order. Raises TooSlow when the grammar takes too long.
        """
        ...

    def abort(self) -> None:
        """End the decode in progress early. Safe from any thread."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...
