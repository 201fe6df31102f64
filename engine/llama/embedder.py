"""Embeddings of texts: the mean of a model's last hidden states, of length 1.

A context of its own, of one sequence, on the weights that answer too. llama.cpp's own pooling needs a text
in one batch; here it is decoded piece by piece, so that answers go on in between.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from engine.core.types import BatchRow
from engine.errors import EngineError
from engine.llama.library import last_log
from engine.llama.model import Adapter, Model, context_params
from engine.llama.runner import Batch, attach_adapter

MAX_TOKENS = 2048
"""The most tokens of a text, if the model's context has so many."""
_PIECE = 64  # tokens a step: no more than answers wait for a prompt's piece


class Embedder:
    """Computes one embedding at a time. It belongs to one thread."""

    def __init__(self, model: Model, *, context: int, threads: int, adapter: Adapter | None = None) -> None:
        """`context` is the most tokens of a text. Raises EngineError when the memory does not suffice."""
        params = context_params(context=context, threads=threads, batch=_PIECE)
        params.embeddings, params.pooling_type = True, llama.LLAMA_POOLING_TYPE_NONE
        self._size: int = llama.llama_model_n_embd(model.handle)
        self._context = llama.llama_init_from_model(model.handle, params)
        if not self._context:
            raise EngineError(f"no room for embeddings ({last_log() or 'no reason given'})")
        if adapter is not None:
            attach_adapter(self._context, adapter)
        self._memory = llama.llama_get_memory(self._context)
        self._batch = Batch(_PIECE)
        self._row = ctypes.c_float * self._size

    def start(self) -> Embedding:
        """Return an empty embedding; the one before it is over."""
        llama.llama_memory_clear(self._memory, True)
        return Embedding(self._size)

    def add(self, found: Embedding, tokens: Sequence[int]) -> int:
        """Add the next tokens of a text, as many as a step takes; return their number."""
        piece = list(tokens[:_PIECE])
        self._batch.fill([BatchRow(0, found.count, piece, len(piece))])
        code = llama.llama_decode(self._context, self._batch.handle)
        if code != 0:
            raise EngineError(f"llama_decode failed with {code}: {last_log() or 'no reason given'}")
        for row in range(len(piece)):
            start = ctypes.cast(llama.llama_get_embeddings_ith(self._context, row), ctypes.c_void_p).value
            assert start is not None, f"row {row} has no embedding"
            found.sum += np.frombuffer(memoryview(self._row.from_address(start)), np.float32)
        found.count += len(piece)
        return len(piece)

    def close(self) -> None:
        """Free the context."""
        if self._context:
            self._batch.close()
            llama.llama_free(self._context)
            self._context = None


class Embedding:
    """The sum of the hidden states of `count` tokens."""

    def __init__(self, size: int) -> None:
        self.sum: NDArray[np.float64] = np.zeros(size)
        self.count = 0

    def vector(self) -> list[float]:
        """Return the mean, of length 1. Raises EngineError when it is not finite."""
        length = float(np.linalg.norm(self.sum))
        if not np.isfinite(length) or not length:
            raise EngineError("the model gives no finite embedding of this text")
        values: list[float] = (self.sum / length).astype(np.float32).tolist()
        return values
