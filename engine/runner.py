"""The model and its KV cache: the only file that decodes and samples through llama_cpp.

One `Runner` belongs to one thread; only `abort` and the vocabulary's `tokenize` may be called from others.
A slot is one llama.cpp sequence. llama.h is the reference for every call.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from pathlib import Path

from llama_cpp import llama_cpp as low

from engine.errors import EngineError, ModelError
from engine.native import last_log, silence_log
from engine.sampler import sampler_chain
from engine.scheduler import DecodeAborted, Row
from engine.settings import KvType, SamplingSettings
from engine.vocab import Vocabulary

_KV_TYPES = {"f16": low.GGML_TYPE_F16, "q8_0": low.GGML_TYPE_Q8_0, "q4_0": low.GGML_TYPE_Q4_0}


class Model:
    """Weights in memory. The CPU backend must have been loaded before (engine.cpu.load_cpu_backend)."""

    def __init__(self, path: Path, *, extra_buffers: bool = True, vocab_only: bool = False) -> None:
        """Raises ModelError with llama.cpp's own words when the file does not load."""
        silence_log()
        low.llama_backend_init()
        params = low.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = extra_buffers
        params.vocab_only = vocab_only
        last_log()
        self.handle = low.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelError(f"{path} does not load: {last_log() or 'llama.cpp gives no reason'}")
        self.vocab = Vocabulary(self.handle)
        self._path, self._owners, self._lock = path, 1, threading.Lock()

    def share(self) -> Model:
        """The same weights for one more owner, who closes them too. The model must not be closed yet."""
        with self._lock:
            assert self._owners > 0, f"{self._path} is closed"
            self._owners += 1
        return self

    def metadata(self, key: str) -> str:
        """A metadata value as text, or "" when the file does not have it."""
        size = low.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        low.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Give up one owner's share; the last one frees the weights. Its Runner must be closed before."""
        with self._lock:
            self._owners -= 1
            last = self._owners == 0
        if last:
            low.llama_model_free(self.handle)
            self.handle = None


class Adapter:
    """A LoRA adapter for a loaded model, from a GGUF of llama.cpp's convert_lora_to_gguf.py.

    It takes memory of its own. One that is never closed is freed with the model.
    """

    def __init__(self, model: Model, path: Path, scale: float = 1.0) -> None:
        """`scale` multiplies what was trained. Raises ModelError when it is not this model's."""
        last_log()
        self.handle = low.llama_adapter_lora_init(model.handle, str(path).encode())
        self.scale = scale
        if not self.handle:
            raise ModelError(
                f"adapter {path} does not load on this model: {last_log() or 'llama.cpp gives no reason'}"
            )

    def close(self) -> None:
        """Free it. Every Runner that has it must be closed before, and the model must not be."""
        low.llama_adapter_lora_free(self.handle)


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
        self.vocab = Vocabulary(model.handle)  # its buffer belongs to one thread
        self._batch_size = batch
        params = low.llama_context_default_params()
        params.n_ctx = slots * context
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = slots
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = unified
        params.no_perf = True
        params.type_k = params.type_v = _KV_TYPES[kv_type]
        if kv_type != "f16":  # llama.cpp reads a quantized V cache through flash attention alone
            params.flash_attn_type = low.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = low.llama_init_from_model(model.handle, params)
        if not self._context:
            raise EngineError(
                f"no room for {slots} conversations of {context} tokens ({last_log() or 'no reason given'}): "
                + ("" if kv_type == "f16" else "use kv_type=f16, ")
                + "use a smaller context or fewer slots"
            )
        if adapter is not None:
            self._attach(adapter)
        self._memory = low.llama_get_memory(self._context)
        self._slot_size: int = low.llama_n_ctx_seq(self._context)
        recurrent = low.llama_model_is_recurrent(model.handle) or low.llama_model_is_hybrid(model.handle)
        self.can_cut = not recurrent
        self._sliding: int = low.llama_model_n_swa(model.handle)
        self._bridgeable = not unified and not recurrent
        self._batch = low.llama_batch_init(batch, 0, 1)
        for index in range(batch):
            self._batch.n_seq_id[index] = 1
        self._samplers: dict[int, int] = {}
        self._outputs: dict[int, int] = {}  # slot -> its first row with logits in the last batch
        self._install_abort()

    def _attach(self, adapter: Adapter) -> None:
        handles = (low.llama_adapter_lora_p_ctypes * 1)(adapter.handle)
        if low.llama_set_adapters_lora(self._context, handles, 1, (ctypes.c_float * 1)(adapter.scale)) != 0:
            raise EngineError("llama.cpp does not take the adapter")

    def _install_abort(self) -> None:
        # The callback runs before each of a graph's ~1,000 nodes. A Python function would have to take the
        # GIL each time, and wait up to 5 ms for it under load. C's strlen needs no GIL: on an empty string it
        # returns 0, which is `false`; on one of length 1 it returns 1, which is `true`.
        self._flag = ctypes.create_string_buffer(b"", 2)
        self._strlen = ctypes.cast(ctypes.CDLL(None).strlen, low.ggml_abort_callback)
        low.llama_set_abort_callback(self._context, self._strlen, ctypes.cast(self._flag, ctypes.c_void_p))

    def abort(self) -> None:
        """End the decode in progress, or else the next one, early with DecodeAborted. From any thread."""
        self._flag[0] = b"\x01"

    def prepare(self, slot: int, keep: int, copy_from: int | None = None) -> int:
        """Cut the slot's cache to its first `keep` tokens, taken from another slot if named.

        Returns how many tokens are kept: all or none, since a recurrent state cannot be cut.
        """
        if copy_from is not None:
            low.llama_memory_seq_rm(self._memory, slot, -1, -1)
            low.llama_memory_seq_cp(self._memory, copy_from, slot, -1, -1)
        cut = low.llama_memory_seq_rm(self._memory, slot, keep, -1) and self.length(slot) == keep
        if cut and self._window_is_whole(slot, keep):
            return keep
        low.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    def _window_is_whole(self, slot: int, keep: int) -> bool:
        """Whether a sliding-window model finds all that the token after `keep` looks back on.

        A cache that was saved holds only the last window of those layers, so it cannot be cut far back.
        """
        if not self._sliding or keep == 0:
            return True
        return bool(low.llama_memory_seq_pos_min(self._memory, slot) <= max(0, keep - self._sliding))

    def state_size(self, slot: int) -> int:
        """Bytes that `save` would give."""
        return int(low.llama_state_seq_get_size(self._context, slot))

    def save(self, slot: int) -> bytearray:
        """The slot's whole cache. Raises EngineError."""
        state = bytearray(self.state_size(slot))
        if low.llama_state_seq_get_data(self._context, _view(state), len(state), slot) != len(state):
            raise EngineError("llama_state_seq_get_data wrote less than it announced")
        return state

    def restore(self, slot: int, state: bytearray) -> bool:
        """Put a saved cache in the place of the slot's; False if it did not work, and the slot is empty."""
        low.llama_memory_seq_rm(self._memory, slot, -1, -1)
        if low.llama_state_seq_set_data(self._context, _view(state), len(state), slot):
            return True
        low.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def length(self, slot: int) -> int:
        """Tokens in the slot's cache."""
        return int(low.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def decode(self, rows: Sequence[Row]) -> None:
        """Compute all rows in one batch. Raises DecodeAborted after `abort`, EngineError on a failure."""
        bridges = self._bridges(rows)
        self._fill(sorted([*rows, *bridges], key=lambda row: row.slot) if bridges else rows)
        code = low.llama_decode(self._context, self._batch)
        for bridge in bridges:
            low.llama_memory_seq_rm(self._memory, bridge.slot, bridge.start, -1)
        if code == 2:
            self._flag[0] = b"\x00"
            raise DecodeAborted
        if code != 0:
            raise EngineError(f"llama_decode failed with {code}: {last_log() or 'no reason given'}")

    def _bridges(self, rows: Sequence[Row]) -> list[Row]:
        """Throw-away tokens for each idle slot between the first and the last that compute.

        With a cache for each sequence, llama.cpp computes side by side only slots whose numbers have no gap
        (llama_batch_allocr::split_equal, `sequential`): slots 0 and 2 cost two passes over the weights, and
        0, 1, 2 little more than one. Removed again after the decode; a recurrent state could not be.
        """
        slots = {row.slot for row in rows}
        if not self._bridgeable or len(slots) == max(slots) - min(slots) + 1:
            return []
        gaps = [slot for slot in range(min(slots), max(slots)) if slot not in slots]
        free = self._batch_size - sum(len(row.tokens) for row in rows)
        count = min(len(row.tokens) for row in rows)
        lengths = [(slot, self.length(slot)) for slot in gaps[: free // count]]
        return [
            Row(slot, length, [0] * count, 0) for slot, length in lengths if length + count <= self._slot_size
        ]

    def _fill(self, rows: Sequence[Row]) -> None:
        batch, index = self._batch, 0
        self._outputs.clear()
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
                self._outputs[row.slot] = index - row.outputs
        batch.n_tokens = index

    def logits_are_finite(self, slot: int) -> bool:
        """Whether the slot's row of the last batch holds numbers, not NaN or infinity."""
        logits = low.llama_get_logits_ith(self._context, self._outputs[slot])
        return all(map(math.isfinite, logits[: self.vocab.size]))

    def start(self, slot: int, sampling: SamplingSettings) -> None:
        """Give the slot a fresh sampler chain."""
        self.stop(slot)
        self._samplers[slot] = sampler_chain(sampling, self.vocab)

    def stop(self, slot: int) -> None:
        """Drop the slot's sampler chain, if it has one; the cache stays for the next turn."""
        if chain := self._samplers.pop(slot, None):
            low.llama_sampler_free(chain)

    def sample(self, slot: int, output: int = 0) -> int:
        """The slot's next token, from one of its outputs in the last batch."""
        return int(
            low.llama_sampler_sample(self._samplers[slot], self._context, self._outputs[slot] + output)
        )

    def close(self) -> None:
        """Free the context and the samplers."""
        for slot in list(self._samplers):
            self.stop(slot)
        if self._context:
            low.llama_batch_free(self._batch)
            low.llama_free(self._context)
            self._context = None


def _view(state: bytearray) -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)
