"""Weights in memory: a model that several contexts may share, and the LoRA adapters on it."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

from llama_cpp import llama_cpp as low

from engine.errors import ModelError
from engine.native import last_log, silence_log
from engine.reach import Reach, unwatched
from engine.vocab import Vocabulary


class Model:
    """Weights in memory. The CPU backend must have been loaded before (engine.cpu.load_cpu_backend)."""

    def __init__(
        self,
        path: Path,
        *,
        extra_buffers: bool = True,
        vocab_only: bool = False,
        reach: Reach = unwatched,
    ) -> None:
        """Raises ModelError with llama.cpp's own words when the file does not load, or `reach` ends it."""
        silence_log()
        low.llama_backend_init()
        params = low.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = extra_buffers
        params.vocab_only = vocab_only
        params.progress_callback = heard = low.llama_progress_callback(lambda share, _: reach(share))
        last_log()
        self.handle = low.llama_model_load_from_file(str(path).encode(), params)
        del heard  # C calls it no more
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
