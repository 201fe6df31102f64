"""A tiny DeciLM, as Llama-3.1-Nemotron-51B: transformers has no class for it, its repository brings one.

Its layers differ in heads and widths; the second has neither part and the third no attention.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaTokenizer

HIDDEN, HEADS, VOCABULARY = 64, 4, 32000
State = dict[str, torch.Tensor]
_CODE = "raise SystemExit('code of the repository was run')\n"


def _block(group: int | None, ffn: float | None) -> dict[str, Any]:
    no_attention, no_ffn = group is None, ffn is None
    return {
        "attention": {"n_heads_in_group": group, "no_op": no_attention, "replace_with_linear": False},
        "ffn": {"ffn_mult": ffn, "no_op": no_ffn, "replace_with_linear": False},
    }


BLOCKS = [_block(2, 6.0), _block(None, None), _block(None, 6.0), _block(4, 12.0)]


def make_deci(folder: Path, dtype: torch.dtype = torch.bfloat16, **changed: Any) -> Path:
    """Save such a model with random weights and a SentencePiece tokenizer to `folder`."""
    folder.mkdir(parents=True)
    own = {"AutoConfig": "code.DeciLMConfig", "AutoModelForCausalLM": "code.DeciLMForCausalLM"}
    config = {
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": own,
        "model_type": "nemotron-nas",
        "block_configs": BLOCKS,
        "hidden_size": HIDDEN,
        "num_hidden_layers": len(BLOCKS),
        "num_attention_heads": HEADS,
        "num_key_value_heads": None,
        "intermediate_size": None,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    (folder / "code.py").write_text(_CODE)
    save_file({name: value.to(dtype) for name, value in _weights().items()}, folder / "model.safetensors")
    spec = importlib.util.find_spec("mistral_common")
    assert spec is not None and spec.origin is not None
    shutil.copy(Path(spec.origin).parent / "data" / "tokenizer.model.v1", folder / "tokenizer.model")
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def _weights() -> State:
    torch.manual_seed(0)
    weights = {
        "model.embed_tokens.weight": torch.randn(VOCABULARY, HIDDEN),
        "model.norm.weight": 1 + 0.1 * torch.randn(HIDDEN),
        "lm_head.weight": torch.randn(VOCABULARY, HIDDEN) / 8,
    }
    for number, block in enumerate(BLOCKS):
        layer, group, ffn = (
            f"model.layers.{number}.",
            block["attention"]["n_heads_in_group"],
            block["ffn"]["ffn_mult"],
        )
        if group:
            weights[f"{layer}input_layernorm.weight"] = 1 + 0.1 * torch.randn(HIDDEN)
            for part, rows in (("q", HIDDEN), ("k", HIDDEN // group), ("v", HIDDEN // group), ("o", HIDDEN)):
                weights[f"{layer}self_attn.{part}_proj.weight"] = torch.randn(rows, HIDDEN) / 8
        if ffn:
            width = 256 * int(ffn / 6)
            weights[f"{layer}post_attention_layernorm.weight"] = 1 + 0.1 * torch.randn(HIDDEN)
            for part in ("gate", "up"):
                weights[f"{layer}mlp.{part}_proj.weight"] = torch.randn(width, HIDDEN) / 8
            weights[f"{layer}mlp.down_proj.weight"] = torch.randn(HIDDEN, width) / 16
    return weights


def make_lora(folder: Path, weights: State, targets: Iterable[str], seed: int = 1, **options: Any) -> Path:
    """Save a LoRA of rank 4 on the linear layers named `targets`, as PEFT would."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    names = tuple(targets)
    tensors = {}
    for name, value in weights.items():
        path = name.removesuffix(".weight")
        if path.endswith(names):
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(4, value.shape[1]) / 8
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(value.shape[0], 4) / 8
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(names), **options}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def logits(weights: State, tokens: list[int]) -> torch.Tensor:
    """Return the model's logits in float32, [tokens, vocabulary], from its definition."""
    x = weights["model.embed_tokens.weight"][tokens]
    for number, block in enumerate(BLOCKS):
        layer = {
            name.removeprefix(f"model.layers.{number}."): value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{number}.")
        }
        if block["attention"]["n_heads_in_group"]:
            x = x + _attention(_norm(x, layer["input_layernorm.weight"]), layer)
        if block["ffn"]["ffn_mult"]:
            y = _norm(x, layer["post_attention_layernorm.weight"])
            gate, up, down = (layer[f"mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
            x = x + (torch.nn.functional.silu(y @ gate.T) * (y @ up.T)) @ down.T
    return _norm(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)


def _attention(x: torch.Tensor, layer: State) -> torch.Tensor:
    width = HIDDEN // HEADS
    q, k, v = (
        (x @ layer[f"self_attn.{part}_proj.weight"].T).unflatten(-1, (-1, width)).transpose(0, 1)
        for part in "qkv"
    )
    q, k = _rotated(q), _rotated(k)
    k, v = (part.repeat_interleave(HEADS // len(part), 0) for part in (k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(0, 1).flatten(1) @ layer["self_attn.o_proj.weight"].T


def _rotated(x: torch.Tensor) -> torch.Tensor:
    """Apply RoPE to the halves of each head, as Llama."""
    width = x.shape[-1]
    angles = torch.arange(x.shape[1])[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    one, two = x.chunk(2, -1)
    return torch.cat([one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()], -1)
