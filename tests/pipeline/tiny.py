"""Tiny random models of real architectures, with a real tokenizer, and adapters for them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

ARCHITECTURES = ("llama", "phi3", "gemma2", "gemma3_text", "qwen2", "qwen3", "mistral")
MIXTURES = ("mixtral", "qwen3_moe")
"""Mixtures of experts, whose expert weights are a single parameter in transformers."""
_SIZES: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


_OWN_SIZES: dict[str, dict[str, Any]] = {
    # Phi-3.5's position scaling: one factor for each of the head's 8 pairs of dimensions
    "phi3": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0 + 0.1 * pair for pair in range(8)],
            "long_factor": [1.0 + pair for pair in range(8)],
            "original_max_position_embeddings": 64,
        },
        "original_max_position_embeddings": 64,
    },
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
}


def make_base(
    folder: Path, architecture: str = "llama", dtype: torch.dtype = torch.float32, **extra: Any
) -> Path:
    """Save a two-layer model of that architecture, with a SentencePiece tokenizer, to `folder`."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **{**_SIZES, **_OWN_SIZES.get(architecture, {}), **extra})
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder)
    spec = importlib.util.find_spec("mistral_common")
    assert spec is not None and spec.origin is not None
    shutil.copy(Path(spec.origin).parent / "data" / "tokenizer.model.v1", folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    return folder


def make_adapter(folder: Path, base: Path, seed: int = 1, **options: Any) -> Path:
    """Save a LoRA adapter with random weights, with PEFT."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, **options}
    return save_adapter(folder, get_peft_model(model, LoraConfig(**config)))


def resized(base: Path, folder: Path, rows: int, save_embedding_layers: bool = True, **options: Any) -> Path:
    """Save an adapter for the base with `rows` tokens in its vocabulary."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    wrapped = get_peft_model(model, LoraConfig(**{"target_modules": ["q_proj"], **options}))
    return save_adapter(folder, wrapped, save_embedding_layers)


def save_adapter(folder: Path, model: Any, save_embedding_layers: bool = False) -> Path:
    """Set an adapter's trained parameters to random values, and save it."""
    for name, value in model.named_parameters():
        if value.requires_grad and "lora_magnitude" not in name:
            value.data += 0.05 * torch.randn_like(value)
    model.save_pretrained(str(folder), save_embedding_layers=save_embedding_layers)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> Any:
    """Return the whole model, loaded in float32 and merged by PEFT, which every export must equal."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
