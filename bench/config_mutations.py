"""Mutants of the JSON files beside a base's and an adapter's weights, in the folders that hold them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_WIDTH, _HIDDEN, _LAYERS = 32, 64, 2
_TOKENS = ["<unk>", "<s>", "</s>", *map(chr, range(0x21, 0x7F))]
CONFIGS: dict[str, Any] = {
    "base/config.json": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _WIDTH,
        "intermediate_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(_TOKENS),
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "_name_or_path": "someone/tiny",
    },
    "base/generation_config.json": {"bos_token_id": 1, "eos_token_id": [2], "temperature": 0.6, "top_p": 0.9},
    "base/tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
        "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    },
    "base/tokenizer.json": {
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "<s>", "special": True}],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(_TOKENS)},
            "merges": [],
        },
    },
    "base/model.safetensors.index.json": {
        "metadata": {},
        "weight_map": {"lm_head.weight": "model.safetensors"},
    },
    "adapter/adapter_config.json": {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "someone/tiny",
        "revision": None,
        "r": 4,
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
        "trainable_token_indices": None,
        "peft_version": "0.18.0",
    },
    "adapter/tokenizer_config.json": {"bos_token": "<s>", "chat_template": "{{ messages }}"},
    "adapter/tokenizer.json": {
        "added_tokens": [{"id": 1, "content": "<s>", "special": True}],
        "model": {"type": "Unigram", "vocab": [[token, 0.0] for token in _TOKENS]},
    },
}
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "none",
    "../../../../etc/passwd",
    "日本\ud800",
    "x" * 100_000,
    "LORA",
    "IA3",
    "XLORA",
    "(.|\\w)+!",
    "[",
    "all-linear",
    [],
    [None],
    [[[]]],
    [1, "a", {}],
    {},
    {"": {}},
    {"a": None},
    {"content": 5},
)
# What a base or an adapter may also bring, beside what the good files have.
_MORE: tuple[tuple[str, Any], ...] = (
    ("auto_map", {"AutoConfig": "evil--x.Config"}),
    ("quantization_config", {"quant_method": "bitsandbytes"}),
    ("text_config", {"model_type": "llama"}),
    ("text_config", []),
    ("rope_scaling", {"type": "yarn", "factor": "4"}),
    ("layer_replication", [[0, 2]]),
    ("layers_to_transform", [10**9]),
    ("layers_pattern", "("),
    ("exclude_modules", ".*"),
    ("target_parameters", ["x"]),
    ("runtime_config", {"ephemeral_gpu_offload": True}),
    ("corda_config", 1),
    ("eva_config", "x"),
    ("loftq_config", {"loftq_bits": "4"}),
    ("megatron_config", {}),
    ("token_indices", "12"),
    ("model_type", "nonsense"),
    ("model_type", "gpt2"),
    ("peft_type", ["LORA"]),
    ("transformers_version", 5),
    ("dtype", "float1024"),
)
_DEEP = 100_000  # levels of brackets


def write_good_folders(folder: Path) -> None:
    """Write a base with its weights, and an adapter for it, that can be read."""
    from safetensors.numpy import save_file

    for name in ("base", "adapter"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_file(dict(_base_weights()), folder / "base" / "model.safetensors")
    save_file(dict(_adapter_weights()), folder / "adapter" / "adapter_model.safetensors")
    restore(folder)


def restore(folder: Path) -> None:
    """Write the good JSON files, in place of those of a mutant."""
    for name, content in CONFIGS.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _base_weights() -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        yield name, np.ones((len(_TOKENS), _WIDTH), np.float32)
    yield "model.norm.weight", np.ones(_WIDTH, np.float32)
    for layer in range(_LAYERS):
        block = f"model.layers.{layer}"
        for part in "qkvo":
            yield f"{block}.self_attn.{part}_proj.weight", np.ones((_WIDTH, _WIDTH), np.float32)
        for part, shape in (
            ("gate", (_HIDDEN, _WIDTH)),
            ("up", (_HIDDEN, _WIDTH)),
            ("down", (_WIDTH, _HIDDEN)),
        ):
            yield f"{block}.mlp.{part}_proj.weight", np.ones(shape, np.float32)
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"{block}.{part}.weight", np.ones(_WIDTH, np.float32)


def _adapter_weights() -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for layer in range(_LAYERS):
        for part in "qv":
            name = f"base_model.model.model.layers.{layer}.self_attn.{part}_proj"
            yield f"{name}.lora_A.weight", np.ones((4, _WIDTH), np.float32)
            yield f"{name}.lora_B.weight", np.ones((_WIDTH, 4), np.float32)


def mutated_config(draw: random.Random) -> tuple[str, bytes]:
    """Return the name of one of CONFIGS, and a changed content for it."""
    name = draw.choice(list(CONFIGS))
    if draw.random() < 0.15:
        return name, _damaged(draw, json.dumps(CONFIGS[name]).encode())
    content = copy.deepcopy(CONFIGS[name])
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if draw.random() < 0.15:
            key, value = draw.choice(_MORE)
            content[key] = value
        else:
            _change(draw, content)
    return name, json.dumps(content).encode("utf-8", "surrogatepass")


def _change(draw: random.Random, content: dict[str, Any]) -> None:
    """Change, remove or move one value, at any depth."""
    owner: Any = content
    while True:
        keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
        if not keys:
            return
        key = draw.choice(keys)
        if not isinstance(owner[key], dict | list) or draw.random() < 0.4:
            break
        owner = owner[key]
    action = draw.choice(("value", "value", "value", "remove", "wrap", "text"))
    if action == "remove":
        del owner[key]
    elif action == "value":
        owner[key] = draw.choice(_VALUES)
    else:
        owner[key] = [owner[key]] if action == "wrap" else str(owner[key])


def _damaged(draw: random.Random, content: bytes) -> bytes:
    """Return content that is cut off, no object, not UTF-8, or nested too deeply; or with bits flipped."""
    flipped = bytearray(content)
    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    return draw.choice(
        (
            content[: draw.randrange(len(content))],
            bytes(flipped),
            b"",
            b"[]",
            b"null",
            b"\xff\xfe" + content,
            b"\xef\xbb\xbf" + content,
            b"[" * _DEEP,
            b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
            b'{"architectures": ' + b"[" * 900 + b"]" * 900 + b"}",
            b'{"r": ' + b"9" * 5000 + b"}",
        )
    )
