"""Runner: a llama_context with its KV cache, which decodes batches and samples tokens.

One `Runner` belongs to one thread; only `abort` and the vocabulary may be called from others.
A slot is one llama.cpp sequence. llama.h is the reference for every call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from engine.config import KvType, SamplingParams
from engine.core.types import BatchRow, DecodeAborted
from engine.errors import EngineError
from engine.llama.library import last_log
from engine.llama.model import Adapter, Model, new_context
from engine.llama.sampler import Sampler, is_plain


class Batch:
    """A llama_batch for up to `size` tokens; `outputs` maps a slot to its first row with logits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.outputs: dict[int, int] = {}
        self.handle = llama.llama_batch_init(size, 0, 1)
        for index in range(size):
            self.handle.n_seq_id[index] = 1

    def fill(self, rows: Sequence[BatchRow]) -> None:
        """Replace the batch's content by the rows."""
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
        """Free the batch."""
        llama.llama_batch_free(self.handle)


def attach_adapter(context: Any, adapter: Adapter) -> None:
    """Use the adapter in a llama_context. Frees the context and raises EngineError if it does not fit."""
    handles = (llama.llama_adapter_lora_p_ctypes * 1)(adapter.handle)
    if llama.llama_set_adapters_lora(context, handles, 1, (ctypes.c_float * 1)(adapter.scale)) != 0:
        llama.llama_free(context)
        raise EngineError("llama.cpp does not take the adapter")


class Runner:
    """A context with `slots` sequences: decodes batches of rows and samples the next token of a slot."""

    def __init__(
        self,
        model: Model,
        *,
        slots: int,
        context: int,
        batch: int,
        threads: int,
        unified: bool = False,
        kv_type: KvType = "f16",
        adapter: Adapter | None = None,
    ) -> None:
        """`context` is in tokens per slot. Raises EngineError when the memory does not suffice."""
        self.vocab = model.vocab
        self._context = new_context(
            model,
            slots=slots,
            context=context,
            batch=batch,
            threads=threads,
            unified=unified,
            kv_type=kv_type,
        )
        if adapter is not None:
            attach_adapter(self._context, adapter)
        self._memory = llama.llama_get_memory(self._context)
        self._slot_size: int = llama.llama_n_ctx_seq(self._context)
        recurrent = llama.llama_model_is_recurrent(model.handle) or llama.llama_model_is_hybrid(model.handle)
        self.can_truncate = not recurrent
        self._sliding: int = llama.llama_model_n_swa(model.handle)
        self._bridgeable = not unified and not recurrent
        self._batch = Batch(batch)
        self._samplers: dict[int, Sampler] = {}
        self._plain: set[int] = set()  # slots with plain greedy sampling
        self._logits_type = ctypes.c_float * self.vocab.size
        self._copies: set[tuple[int, int]] = set()  # (from, to): slots that the next decode copies
        self._install_abort()

    def _install_abort(self) -> None:
        # The callback runs before each of a graph's ~1,000 nodes. A Python function would take the GIL each
        # time, and wait up to 5 ms for it under load. C's strlen needs no GIL: on an empty string it
        # returns 0, which is `false`; on one of length 1 it returns 1, which is `true`.
        self._flag = ctypes.create_string_buffer(b"", 2)
        self._strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)
        llama.llama_set_abort_callback(self._context, self._strlen, ctypes.cast(self._flag, ctypes.c_void_p))

    def abort(self) -> None:
        """Abort the decode in progress, or else the next one, with DecodeAborted. Safe from any thread."""
        self._flag[0] = b"\x01"

    def prepare(self, slot: int, keep: int, copy_from: int | None = None) -> int:
        """Truncate the slot's cache to its first `keep` tokens, copied from another slot if given.

        Return how many tokens are kept: `keep`, or 0 for a cache that cannot be truncated.
        """
        if copy_from is not None:
            llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
            llama.llama_memory_seq_cp(self._memory, copy_from, slot, -1, -1)
            self._copies.add((copy_from, slot))
        cut = llama.llama_memory_seq_rm(self._memory, slot, keep, -1) and self.length(slot) == keep
        if cut and self._window_is_whole(slot, keep):
            return keep
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    def _window_is_whole(self, slot: int, keep: int) -> bool:
        """Return whether a sliding-window model still has the whole window before the token after `keep`.

        A saved cache holds only the last window of those layers, so it cannot be truncated far back.
        """
        if not self._sliding or keep == 0:
            return True
        return bool(llama.llama_memory_seq_pos_min(self._memory, slot) <= max(0, keep - self._sliding))

    def state_size(self, slot: int) -> int:
        """Return the number of bytes that `save` would return; 0 for a cache that is still to be copied."""
        if any(slot == target for _, target in self._copies):
            return 0
        return int(llama.llama_state_seq_get_size(self._context, slot))

    def save(self, slot: int) -> bytearray:
        """Return the slot's whole cache, which must not be still to be copied. Raises EngineError."""
        state = bytearray(self.state_size(slot))
        if llama.llama_state_seq_get_data(self._context, _view(state), len(state), slot) != len(state):
            raise EngineError("llama_state_seq_get_data wrote less than it announced")
        return state

    def restore(self, slot: int, state: bytearray) -> bool:
        """Replace the slot's cache with a saved one; return False, with the slot empty, on failure.

        Restoring writes at once, but copies happen at the next decode. A slot that is still to be copied from
        must keep its cache, or the copy would be another conversation's; one that is still to be copied to
        would lose the restored cache to the copy.
        """
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        if any(slot in copy for copy in self._copies):
            return False
        if llama.llama_state_seq_set_data(self._context, _view(state), len(state), slot):
            return True
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def length(self, slot: int) -> int:
        """Return the number of tokens in the slot's cache."""
        return int(llama.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def decode(self, rows: Sequence[BatchRow]) -> None:
        """Compute all rows in one batch. Raises DecodeAborted after `abort`, EngineError on a failure."""
        bridges = self._bridges(rows)
        self._batch.fill(sorted([*rows, *bridges], key=lambda row: row.slot) if bridges else rows)
        code = llama.llama_decode(self._context, self._batch.handle)
        self._copies.clear()
        for bridge in bridges:
            llama.llama_memory_seq_rm(self._memory, bridge.slot, bridge.start, -1)
        if code == 2:
            self._flag[0] = b"\x00"
            raise DecodeAborted
        if code != 0:
            raise EngineError(f"llama_decode failed with {code}: {last_log() or 'no reason given'}")

    def _bridges(self, rows: Sequence[BatchRow]) -> list[BatchRow]:
        """Return rows of throw-away tokens for the idle slots between the first and the last active slot.

        With one KV stream per sequence, llama.cpp computes only contiguous slots together
        (llama_batch_allocr::split_equal, `sequential`): slots 0 and 2 cost two passes over the weights, and
        0, 1, 2 little more than one. `decode` removes the tokens again; a recurrent state does not allow it.
        """
        slots = {row.slot for row in rows}
        if not self._bridgeable or len(slots) == max(slots) - min(slots) + 1:
            return []
        gaps = [slot for slot in range(min(slots), max(slots)) if slot not in slots]
        free = self._batch.size - sum(len(row.tokens) for row in rows)
        count = min(len(row.tokens) for row in rows)
        lengths = [(slot, self.length(slot)) for slot in gaps[: free // count]]
        return [
            BatchRow(slot, length, [0] * count, 0)
            for slot, length in lengths
            if length + count <= self._slot_size
        ]

    def exact_rows(self, sizes: Sequence[int]) -> int:
        """Return the largest of `sizes` up to which batches give the logits of single tokens, bit for bit.

        `sizes` ascend from 1. Uses slot 0, which is empty afterwards.
        """
        tokens = [(100 + 37 * n) % self.vocab.size for n in range(min(16, 2 * max(sizes)))]
        single, exact = self._logits_in_batches(tokens, 1), 1
        for size in sizes:
            # One batch is not enough: different kernels often round equally.
            if not np.array_equal(self._logits_in_batches(tokens, size), single):
                break
            exact = size
        self.prepare(0, 0)
        return exact

    def _logits_in_batches(self, tokens: Sequence[int], size: int) -> NDArray[np.float32]:
        """Return the logits of all tokens, computed in slot 0 in batches of `size`: [tokens, vocabulary]."""
        self.prepare(0, 0)
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(tokens), size):
            piece = tokens[start : start + size]
            self.decode([BatchRow(0, start, piece, len(piece))])
            found.append(self.logits(0, len(piece)))
        return np.concatenate(found)

    def logits(self, slot: int, count: int) -> NDArray[np.float32]:
        """Return a copy of the logits of the slot's first `count` outputs: [count, vocabulary]."""
        return np.array([self._logits(self._batch.outputs[slot] + n) for n in range(count)])

    def logits_are_finite(self, slot: int) -> bool:
        """Return whether the logits of the slot's first output contain no NaN or infinity."""
        return bool(np.isfinite(self._logits(self._batch.outputs[slot])).all())

    def start(self, slot: int, sampling: SamplingParams) -> None:
        """Create a sampler for the slot."""
        self.stop(slot)
        if is_plain(sampling):
            self._plain.add(slot)
        else:
            self._samplers[slot] = Sampler(sampling, self.vocab)

    def stop(self, slot: int) -> None:
        """Free the slot's sampler, if any; the cache stays for the next turn."""
        self._plain.discard(slot)
        if sampler := self._samplers.pop(slot, None):
            sampler.close()

    def sample(self, slot: int, output: int = 0, logits: NDArray[np.float32] | None = None) -> int:
        """Sample the slot's next token from one of its outputs in the last batch, or from `logits`."""
        if logits is not None:
            return int(logits.argmax()) if slot in self._plain else self._samplers[slot].sample_from(logits)
        row = self._batch.outputs[slot] + output
        logits = self._logits(row)
        if slot in self._plain:
            return int(logits.argmax())
        return self._samplers[slot].sample(self._context, row, logits)

    def _logits(self, row: int) -> NDArray[np.float32]:
        """Return a row of the last batch's logits, a view of llama.cpp's memory: [vocabulary]."""
        start = ctypes.cast(llama.llama_get_logits_ith(self._context, row), ctypes.c_void_p).value
        assert start is not None, f"row {row} has no logits"
        return np.frombuffer(memoryview(self._logits_type.from_address(start)), np.float32)

    def close(self) -> None:
        """Free the context and the samplers."""
        for slot in list(self._samplers):
            self.stop(slot)
        if self._context:
            self._batch.close()
            llama.llama_free(self._context)
            self._context = None


def _view(state: bytearray) -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)
