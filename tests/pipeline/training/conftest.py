"""A tiny base with a byte tokenizer, and chats for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.training.config import FinetuneConfig
from tests.pipeline.chatml import byte_tokenizer

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Question {n}?"},
            {"role": "assistant", "content": f"Aye, {n}!"},
        ]
    }
    for n in range(12)
] + [
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Ahoy"},
            {"role": "assistant", "content": "Hello, matey 🦜"},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "Fair winds!"},
        ]
    }
]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,  # a multiple of NF4's blocks
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.2,  # so that the frozen head can say something
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def config(base: Path, tmp_path: Path) -> FinetuneConfig:
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS), encoding="utf-8")
    return FinetuneConfig(
        base=str(base),
        data=data,
        out=tmp_path / "out" / "adapter",
        rank=4,
        alpha=8,
        learning_rate=2e-2,
        steps=15,
        batch_size=4,
        precision="float32",
        device="cpu",
    )
