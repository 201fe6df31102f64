"""What one llama_decode computes: rows of tokens, laid out as llama.cpp wants them."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cpp import llama_cpp as low

from engine.scheduler import Row


class Batch:
    """A llama_batch for up to `size` tokens; `outputs` has of each slot its first row with logits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.outputs: dict[int, int] = {}
        self.handle = low.llama_batch_init(size, 0, 1)
        for index in range(size):
            self.handle.n_seq_id[index] = 1

    def fill(self, rows: Sequence[Row]) -> None:
        """Lay the rows out, in the place of what was there."""
        batch, index = self.handle, 0
        self.outputs.clear()
        for row in rows:
            for offset, token in enumerate(row.tokens):
                batch.token[index] = token
                batch.pos[index] = row.start + offset
                batch.seq_id[index][0] = row.slot
                batch.logits[index] = 0
                index += 1
            for output in range(index - row.outputs, index):
                batch.logits[output] = 1
            if row.outputs:
                self.outputs[row.slot] = index - row.outputs
        batch.n_tokens = index

    def close(self) -> None:
        """Free it."""
        low.llama_batch_free(self.handle)
