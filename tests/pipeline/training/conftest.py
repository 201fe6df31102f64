"""A tiny base with a byte tokenizer, and chats for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.training.config import FinetuneConfig
from tests.pipeline.chatml import make_byte_llama

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
    return make_byte_llama(tmp_path_factory.mktemp("models") / "tiny-llama", hidden_size=64)


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
