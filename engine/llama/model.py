"""Model weights, which several contexts may share, their LoRA adapters, contexts and metadata."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as llama

from engine.config import KvType, recommended
from engine.errors import EngineError, ModelError
from engine.llama.library import last_log, silence_log
from engine.llama.tokenizer import LlamaTokenizer
from engine.prompt.chat_template import ChatTemplate, PromptBuilder
from engine.types import ProgressCallback, ToolFormat, no_progress
from ggufio import shards


class Model:
    """Weights in memory. Load a CPU backend first (engine.probe.cpu_backend.load_cpu_backend)."""

    def __init__(
        self,
        path: Path,
        *,
        extra_buffers: bool = True,
        vocab_only: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Raises ModelError with llama.cpp's message when the load fails or `progress` returns False."""
        silence_log()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = extra_buffers
        params.vocab_only = vocab_only
        params.progress_callback = heard = llama.llama_progress_callback(lambda share, _: progress(share))
        last_log()
        self.handle = llama.llama_model_load_from_file(str(path).encode(), params)
        del heard  # C no longer calls it
        if not self.handle:
            raise ModelError(f"{path} does not load: {last_log() or 'llama.cpp gives no reason'}")
        self.vocab = LlamaTokenizer(self.handle)
        self._path, self._owners, self._lock = path, 1, threading.Lock()

    @property
    def only_decodes(self) -> bool:
        """Whether the model has a decoder and no encoder, as a model that chats."""
        has_encoder, has_decoder = llama.llama_model_has_encoder, llama.llama_model_has_decoder
        return bool(has_decoder(self.handle)) and not has_encoder(self.handle)

    def share(self) -> Model:
        """Add an owner, which must call `close` too, and return the model. It must not be closed yet."""
        with self._lock:
            assert self._owners > 0, f"{self._path} is closed"
            self._owners += 1
        return self

    def metadata(self, key: str) -> str:
        """Return a metadata value as text, or "" when it is missing."""
        size = llama.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Remove one owner; the last one frees the weights. Close its Runner first."""
        with self._lock:
            self._owners -= 1
            last = self._owners == 0
        if last:
            llama.llama_model_free(self.handle)
            self.handle = None


class Adapter:
    """A LoRA adapter for a loaded model, from a GGUF of llama.cpp's convert_lora_to_gguf.py.

    It needs its own memory. An adapter that is never closed is freed with the model.
    """

    def __init__(self, model: Model, path: Path, scale: float = 1.0) -> None:
        """`scale` multiplies the update. Raises ModelError when it does not fit this model."""
        last_log()
        self.handle = llama.llama_adapter_lora_init(model.handle, str(path).encode())
        self.scale = scale
        if not self.handle:
            raise ModelError(
                f"adapter {path} does not load on this model: {last_log() or 'llama.cpp gives no reason'}"
            )

    def close(self) -> None:
        """Free the adapter. Close every Runner that uses it first, and the model after."""
        llama.llama_adapter_lora_free(self.handle)


_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}


def context_params(*, context: int, threads: int, batch: int | None = None) -> Any:
    """Return llama_context_params of one sequence of `context` tokens, without llama.cpp's timings.

    A `batch` of None keeps llama.cpp's defaults: 2048 tokens a call, computed 512 at a time.
    """
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_seq_max = context, 1
    if batch is not None:
        params.n_batch = params.n_ubatch = batch
    params.n_threads = params.n_threads_batch = threads
    params.no_perf = True
    return params


def new_context(
    model: Model, *, slots: int, context: int, batch: int, threads: int, unified: bool, kv_type: KvType
) -> Any:
    """Return a new llama_context, which the caller frees; `context` is in tokens per slot.

    Raises EngineError when the memory does not suffice.
    """
    params = context_params(context=slots * context, threads=threads, batch=batch)
    params.n_seq_max = slots
    params.kv_unified = unified
    params.type_k = params.type_v = _KV_TYPES[kv_type]
    if kv_type != "f16":  # llama.cpp reads a quantized V cache only with flash attention
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    made = llama.llama_init_from_model(model.handle, params)
    if not made:
        raise EngineError(
            f"no room for {slots} conversations of {context} tokens ({last_log() or 'no reason given'}): "
            + ("" if kv_type == "f16" else "use kv_type=f16, ")
            + "use a smaller context or fewer slots"
        )
    return made


@dataclass(frozen=True)
class ModelMetadata:
    """Metadata of a GGUF. `control` and `ends` are spellings of tokens, `size` is in bytes.

    `adds_bos` is True when plain text gets a BOS; `recommended` has sampling values (engine.config).
    `tool_template` is the chat template for tools, if it is another one; the probe sets `tools`.
    """

    name: str
    architecture: str
    quantization: str
    parameters: int
    size: int
    trained_context: int
    template: str
    bos: str
    adds_bos: bool
    eos: str
    control: tuple[str, ...]
    ends: tuple[str, ...]
    recommended: Mapping[str, float]
    tool_template: str = ""
    tools: ToolFormat | None = None

    def chat_template(self) -> ChatTemplate:
        """Compile the file's chat template. Raises ModelError when there is none, or it does not render."""
        return ChatTemplate(self.template, self.bos, self.eos, self.ends, self.tool_template)

    def prompt_builder(self, tokenizer: LlamaTokenizer) -> PromptBuilder:
        """Return the prompt builder for the file, whose `tokenizer` this is. Raises ModelError."""
        return PromptBuilder(self.chat_template(), tokenizer, self.control)


def model_metadata(model: Model, path: Path) -> ModelMetadata:
    """Read the metadata of an open model, which may be vocab_only; `path` is its file or first shard."""
    vocab, handle = model.vocab, model.handle
    architecture = model.metadata("general.architecture")
    template = llama.llama_model_chat_template(handle, None) or b""
    return ModelMetadata(
        name=model.metadata("general.name") or path.stem,
        architecture=architecture,
        quantization=_label(model.metadata("general.file_type")),
        parameters=int(llama.llama_model_n_params(handle)),
        size=shards.size(path),
        trained_context=int(model.metadata(f"{architecture}.context_length") or 0),
        template=template.decode("utf-8", "replace"),
        bos=vocab.text(vocab.bos),
        adds_bos=vocab.add_bos,
        eos=vocab.text(vocab.eos),
        control=tuple(vocab.control_spellings),
        ends=tuple(vocab.text(t) for t in range(vocab.size) if vocab.is_eog(t)),
        recommended=recommended(model.metadata),
        tool_template=model.metadata("tokenizer.chat_template.tool_use"),
    )


def _label(file_type: str) -> str:
    """Return the name of a file type: `Q4_K_M` for 15, which llama.cpp calls "Q4_K - Medium"."""
    if not file_type.isdigit():
        return "unknown"
    name = (llama.llama_ftype_name(int(file_type)) or b"unknown").decode()
    for size in ("Small", "Medium", "Large"):
        name = name.replace(f" - {size}", f"_{size[0]}")
    return name
