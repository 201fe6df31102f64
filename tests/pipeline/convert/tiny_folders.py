"""The folders of a tiny base and of a LoRA adapter for it, written without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WIDTH, HIDDEN, LAYERS, RANK = 32, 64, 2, 4
TOKENS = [
    *("<unk>", "<s>", "</s>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    *map(chr, range(0x21, 0x7F)),
]
ROWS = len(TOKENS)


def _token(number: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": TOKENS[number], **flags}


FILES: dict[str, Any] = {
    "base/config.json": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": WIDTH // 2,
        "vocab_size": ROWS,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    },
    "base/generation_config.json": {"bos_token_id": 1, "eos_token_id": [2], "temperature": 0.6, "top_p": 0.9},
    "base/special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "base/tokenizer_config.json": {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    },
    "base/tokenizer.json": {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_token(0), _token(1), _token(2)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: number for number, token in enumerate(TOKENS)},
            "merges": [],
        },
    },
    "adapter/adapter_config.json": {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "someone/tiny",
        "r": RANK,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "peft_version": "0.18.0",
    },
}
Tensors = dict[str, np.ndarray[Any, Any]]


def base_tensors() -> Tensors:
    """Return the base's weights: random numbers, and ones for the norms."""
    return dict(_base_tensors())


def _base_tensors() -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    random = np.random.default_rng(0)
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens", (ROWS, WIDTH)),
        ("lm_head", (ROWS, WIDTH)),
        ("model.norm", (WIDTH,)),
    ]
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        shapes += [(f"{block}.self_attn.{part}_proj", (WIDTH, WIDTH)) for part in "qkvo"]
        shapes += [(f"{block}.mlp.{part}_proj", (HIDDEN, WIDTH)) for part in ("gate", "up")]
        shapes += [(f"{block}.mlp.down_proj", (WIDTH, HIDDEN))]
        shapes += [(f"{block}.{part}_layernorm", (WIDTH,)) for part in ("input", "post_attention")]
    for name, shape in shapes:
        data = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.1, shape)
        yield f"{name}.weight", data.astype(np.float32)


def adapter_tensors() -> Tensors:
    """Return the adapter's weights."""
    random = np.random.default_rng(1)
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_{side}.weight": random.normal(
            0, 0.1, (RANK, WIDTH) if side == "A" else (WIDTH, RANK)
        ).astype(np.float32)
        for layer in range(LAYERS)
        for part in "qv"
        for side in "AB"
    }


def write_folders(folder: Path) -> None:
    """Write `base` and `adapter` into `folder`."""
    for name in ("base", "adapter"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_file(base_tensors(), folder / "base" / "model.safetensors")
    save_file(adapter_tensors(), folder / "adapter" / "adapter_model.safetensors")
    for name, content in FILES.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
