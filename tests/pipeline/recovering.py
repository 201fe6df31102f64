"""A small model to recover: rows of 256, so that every type fits, an adapter that changes much, and chats."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.pipeline.convert.tiny_folders import FILES, ROWS, Tensors

WIDTH, HIDDEN, KEYS, LAYERS, RANK = 256, 512, 128, 2, 4
_PROJECTIONS = {
    **{
        f"self_attn.{part}_proj": (rows, WIDTH)
        for part, rows in zip("qkvo", (256, 128, 128, 256), strict=True)
    },
    "mlp.gate_proj": (HIDDEN, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}


def base_tensors() -> Tensors:
    """Return random weights of a Llama with two layers."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (ROWS, WIDTH),
        "lm_head": (ROWS, WIDTH),
        "model.norm": (WIDTH,),
    }
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.{name}": shape for name, shape in _PROJECTIONS.items()}
        shapes |= {f"{block}.{part}_layernorm": (WIDTH,) for part in ("input", "post_attention")}
    return {
        f"{name}.weight": (np.ones(shape) if len(shape) == 1 else random.normal(0, 0.06, shape)).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def adapter_tensors(seed: int = 1) -> Tensors:
    """Return a LoRA on every linear layer."""
    random = np.random.default_rng(seed)
    found = {}
    for layer in range(LAYERS):
        for name, (rows, width) in _PROJECTIONS.items():
            path = f"base_model.model.model.layers.{layer}.{name}"
            found[f"{path}.lora_A.weight"] = random.normal(0, 0.05, (RANK, width)).astype(np.float16)
            found[f"{path}.lora_B.weight"] = random.normal(0, 0.05, (rows, RANK)).astype(np.float16)
    return found


def write_folders(folder: Path) -> None:
    """Write `base`, `adapter` and `chats.jsonl` into `folder`."""
    files = deepcopy(FILES)
    files["base/config.json"] |= {
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    }
    files["base/tokenizer_config.json"]["chat_template"] = (
        "{% for m in messages %}{{ m.content + ('</s>' if m.role == 'assistant' else ' ') }}{% endfor %}"
    )
    files["adapter/adapter_config.json"]["target_modules"] = [name.split(".")[1] for name in _PROJECTIONS]
    for name, tensors in (("base/model", base_tensors()), ("adapter/adapter_model", adapter_tensors())):
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} times {n % 7}?"},
                {"role": "assistant", "content": f"It is {n * (n % 7)}, friend {n}."},
            ]
        }
        for n in range(48)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
