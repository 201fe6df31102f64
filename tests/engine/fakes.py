"""Hand-written fakes of the vocabulary and the runner."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

from engine.config import SamplingParams
from engine.core.prefix_cache import Logits
from engine.core.types import BatchRow, DecodeAborted

END = 0


class FakeVocabulary:
    """Token n is the character chr(n); token 0 ends an answer."""

    is_sentencepiece = False

    def is_eog(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return chr(token).encode()

    def text(self, token: int) -> str:
        return chr(token)


class FakeRunner:
    """A model that answers with its prompt reversed: the tokens from last to first, then an end token.

    Its caches hold real tokens, and `sample` reads only the cache: a token that is missing, in the wrong slot
    or at the wrong position changes the answer.
    """

    def __init__(self, *, can_truncate: bool = True) -> None:
        """Without `can_truncate`, caches cannot be shortened, as with a recurrent model."""
        self.vocab = FakeVocabulary()
        self.caches: dict[int, list[int]] = {}
        self.started: dict[int, SamplingParams] = {}
        self.batches: list[list[BatchRow]] = []
        self.computed = 0
        self.before_decode: Callable[[], None] = lambda: None
        self.exact = 16
        self.closed = self.refuses_states = False
        self.can_truncate, self._aborted = can_truncate, False
        self.copies: set[tuple[int, int]] = set()  # (from, to), which llama.cpp makes at the next decode

    def prepare(self, slot: int, keep: int, copy_from: int | None = None) -> int:
        if copy_from is not None:
            self.caches[slot] = list(self.caches[copy_from])
            self.copies.add((copy_from, slot))
        cache = self.caches.get(slot, [])
        assert keep <= len(cache), "asked to keep more than there is"
        if not self.can_truncate and keep != len(cache):
            keep = 0
        self.caches[slot] = cache[:keep]
        return keep

    def state_size(self, slot: int) -> int:
        return 0 if self._is_to_be_copied(slot) else 4 * len(self.caches[slot])

    def save(self, slot: int) -> bytearray:
        assert not self._is_to_be_copied(slot), "its numbers are not there yet"
        return bytearray(struct.pack(f"{len(self.caches[slot])}I", *self.caches[slot]))

    def restore(self, slot: int, state: bytearray) -> bool:
        if self.refuses_states or any(slot in copy for copy in self.copies):
            self.caches[slot] = []
            return False
        self.caches[slot] = list(struct.unpack(f"{len(state) // 4}I", state))
        return True

    def decode(self, rows: Sequence[BatchRow]) -> None:
        self.before_decode()
        self.copies.clear()
        assert rows and len({row.slot for row in rows}) == len(rows)
        self.batches.append(list(rows))
        if self._aborted:
            self._aborted = False
            raise DecodeAborted
        for row in rows:
            assert row.tokens and row.start == len(self.caches[row.slot])
            self.caches[row.slot] += row.tokens
            self.computed += len(row.tokens)

    def _is_to_be_copied(self, slot: int) -> bool:
        return any(slot == target for _, target in self.copies)

    def exact_rows(self, sizes: Sequence[int]) -> int:
        self.caches[0] = []
        return min(self.exact, max(sizes))

    def start(self, slot: int, sampling: SamplingParams) -> None:
        assert slot not in self.started
        self.started[slot] = sampling

    def stop(self, slot: int) -> None:
        del self.started[slot]

    def logits(self, slot: int, count: int) -> Logits:
        """Return the next token in place of its logits, for `sample`."""
        return np.array([[self._next(slot, output)] for output in range(count)], np.float32)

    def sample(self, slot: int, output: int = 0, logits: Logits | None = None) -> int:
        assert slot in self.started
        return self._next(slot, output) if logits is None else int(logits[0])

    def _next(self, slot: int, output: int) -> int:
        row = next(row for row in self.batches[-1] if row.slot == slot)
        assert 0 <= output < row.outputs
        return next_token(self.caches[slot][: row.start + len(row.tokens) - row.outputs + output + 1])

    def abort(self) -> None:
        self._aborted = True

    def close(self) -> None:
        self.closed = True


def next_token(cache: Sequence[int]) -> int:
    """Return the token after a cache, which holds a prompt that ends with "?" and the answer so far."""
    split = len(cache) - 1 - list(reversed(cache)).index(ord("?"))
    question, answered = cache[:split], len(cache) - split - 1
    return question[-1 - answered] if answered < len(question) else END


def prompt(text: str) -> list[int]:
    """Return the tokens of a prompt that is answered with `text` reversed; it may not contain "?"."""
    return [ord(character) for character in text + "?"]
