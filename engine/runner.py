"""The model and its KV cache: the only file that decodes and samples through llama_cpp.

One `Runner` belongs to one thread; only `abort` and the vocabulary's `tokenize` may be called from others.
A slot is one llama.cpp sequence. llama.h is the reference for every call.
"""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Sequence
from pathlib import Path

from llama_cpp import llama_cpp as low

from engine.errors import EngineError, ModelError
from engine.native import last_log, silence_log
from engine.scheduler import DecodeAborted, Row
from engine.settings import SamplingSettings
from engine.vocab import Vocabulary

_PENALTY_WINDOW = 64  # tokens of the answer that the repeat penalty looks back on, as in llama.cpp
_RANDOM_SEED = 0xFFFFFFFF  # llama.h: LLAMA_DEFAULT_SEED asks for a random one


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

    def metadata(self, key: str) -> str:
        """A metadata value as text, or "" when the file does not have it."""
        size = low.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        low.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Free the weights. Every Runner on this model must be closed before."""
        if self.handle:
            low.llama_model_free(self.handle)
            self.handle = None


class Runner:
    """A context with `slots` sequences: decodes batches of rows and samples the next token of a slot."""

    def __init__(
        self, model: Model, *, slots: int, context: int, batch: int, threads: int, unified: bool = False
    ) -> None:
        """`context` is in tokens per slot. Raises EngineError when the memory does not suffice."""
        self.vocab = model.vocab
        self._batch_size = batch
        params = low.llama_context_default_params()
        params.n_ctx = slots * context
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = slots
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = unified
        params.no_perf = True
        self._context = low.llama_init_from_model(model.handle, params)
        if not self._context:
            raise EngineError(
                f"no room for {slots} conversations of {context} tokens ({last_log() or 'no reason given'}): "
                "use a smaller context or fewer slots"
            )
        self._memory = low.llama_get_memory(self._context)
        self._slot_size: int = low.llama_n_ctx_seq(self._context)
        recurrent = low.llama_model_is_recurrent(model.handle) or low.llama_model_is_hybrid(model.handle)
        self._bridgeable = not unified and not recurrent
        self._batch = low.llama_batch_init(batch, 0, 1)
        for index in range(batch):
            self._batch.n_seq_id[index] = 1
        self._samplers: dict[int, int] = {}
        self._outputs: dict[int, int] = {}  # slot -> row of the last batch that carries its logits
        self._install_abort()

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
        if low.llama_memory_seq_rm(self._memory, slot, keep, -1) and self.length(slot) == keep:
            return keep
        low.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

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
        """One throw-away token for each idle slot between the first and the last that compute.

        With a cache for each sequence, llama.cpp computes side by side only slots whose numbers have no gap
        (llama_batch_allocr::split_equal, `sequential`): slots 0 and 2 cost two passes over the weights, and
        0, 1, 2 little more than one. Removed again after the decode; a recurrent state could not be.
        """
        slots = {row.slot for row in rows}
        if not self._bridgeable or len(slots) == max(slots) - min(slots) + 1:
            return []
        gaps = [slot for slot in range(min(slots), max(slots)) if slot not in slots]
        free = self._batch_size - sum(len(row.tokens) for row in rows)
        lengths = [(slot, self.length(slot)) for slot in gaps[:free]]
        return [Row(slot, length, [0], False) for slot, length in lengths if length < self._slot_size]

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
            if row.wants_logits:
                batch.logits[index - 1] = 1
                self._outputs[row.slot] = index - 1
        batch.n_tokens = index

    def logits_are_finite(self, slot: int) -> bool:
        """Whether the slot's row of the last batch holds numbers, not NaN or infinity."""
        logits = low.llama_get_logits_ith(self._context, self._outputs[slot])
        return all(map(math.isfinite, logits[: self.vocab.size]))

    def start(self, slot: int, sampling: SamplingSettings) -> None:
        """Give the slot a fresh sampler chain."""
        self.stop(slot)
        self._samplers[slot] = _sampler_chain(sampling, self.vocab)

    def stop(self, slot: int) -> None:
        """Drop the slot's sampler chain, if it has one; the cache stays for the next turn."""
        if chain := self._samplers.pop(slot, None):
            low.llama_sampler_free(chain)

    def sample(self, slot: int) -> int:
        """The slot's next token, from its logits in the last batch."""
        return int(low.llama_sampler_sample(self._samplers[slot], self._context, self._outputs[slot]))

    def close(self) -> None:
        """Free the context and the samplers."""
        for slot in list(self._samplers):
            self.stop(slot)
        if self._context:
            low.llama_batch_free(self._batch)
            low.llama_free(self._context)
            self._context = None


def _sampler_chain(sampling: SamplingSettings, vocabulary: Vocabulary) -> int:
    """llama.cpp's usual order: penalties, top-k, top-p, min-p, temperature, draw.

    The penalty sees the answer alone: the prompt's last tokens are the template's and the user's own words.
    """
    params = low.llama_sampler_chain_default_params()
    params.no_perf = True
    chain: int = low.llama_sampler_chain_init(params)
    add = low.llama_sampler_chain_add
    if sampling.ignore_end:
        ends = vocabulary.ends
        biases = (low.llama_logit_bias * len(ends))(*((token, -math.inf) for token in ends))
        add(chain, low.llama_sampler_init_logit_bias(vocabulary.size, len(ends), biases))
    if sampling.repeat_penalty != 1.0:
        _add_penalty(chain, sampling, vocabulary.size)
    if sampling.temperature == 0:
        add(chain, low.llama_sampler_init_greedy())
        return chain
    if sampling.top_k:
        add(chain, low.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        add(chain, low.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        add(chain, low.llama_sampler_init_min_p(sampling.min_p, 1))
    add(chain, low.llama_sampler_init_temp(sampling.temperature))
    seed = secrets.randbelow(_RANDOM_SEED) if sampling.seed is None else sampling.seed
    add(chain, low.llama_sampler_init_dist(min(seed, _RANDOM_SEED - 1)))
    return chain


def _add_penalty(chain: int, sampling: SamplingSettings, vocabulary: int) -> None:
    """Add the repeat penalty, after a cut to the tokens that can still be among the best after it.

    llama.cpp looks up each candidate in a hash map, which for a whole vocabulary takes about a millisecond.
    A penalty above 1 only lowers, and lowers at most a window's worth of tokens: who is among the best k
    afterwards was among the best k + window before. So the cut changes nothing.
    """
    best = 1 if sampling.temperature == 0 else sampling.top_k
    if best and sampling.repeat_penalty > 1:
        low.llama_sampler_chain_add(chain, low.llama_sampler_init_top_k(best + _PENALTY_WINDOW))
    penalty = low.llama_sampler_init_penalties(vocabulary, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
    low.llama_sampler_chain_add(chain, penalty)
