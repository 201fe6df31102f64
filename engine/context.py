"""What llama.cpp computes in: the caches of all slots, and threads."""

from __future__ import annotations

from typing import Any

from llama_cpp import llama_cpp as low

from engine.errors import EngineError
from engine.model import Model
from engine.native import last_log
from engine.settings import KvType

_KV_TYPES = {"f16": low.GGML_TYPE_F16, "q8_0": low.GGML_TYPE_Q8_0, "q4_0": low.GGML_TYPE_Q4_0}


def new_context(
    model: Model, *, slots: int, context: int, batch: int, threads: int, unified: bool, kv_type: KvType
) -> Any:
    """A llama_context, to be freed by its owner; `context` is in tokens per slot.

    Raises EngineError when the memory does not suffice.
    """
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
    made = low.llama_init_from_model(model.handle, params)
    if not made:
        raise EngineError(
            f"no room for {slots} conversations of {context} tokens ({last_log() or 'no reason given'}): "
            + ("" if kv_type == "f16" else "use kv_type=f16, ")
            + "use a smaller context or fewer slots"
        )
    return made
