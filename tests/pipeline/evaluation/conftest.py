"""A tiny base with ChatML, an adapter for it, and a few held-out rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.chatml import make_byte_llama
from tests.pipeline.tiny import make_adapter

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Question {n}?"},
            {"role": "assistant", "content": f"Aye, {n}!"},
        ],
        "source": "code" if n % 2 else "books",
    }
    for n in range(6)
]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_byte_llama(tmp_path_factory.mktemp("evaluation") / "tiny-llama", hidden_size=32)


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("evaluation") / "adapter", tiny_base, use_dora=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "held.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    return path
