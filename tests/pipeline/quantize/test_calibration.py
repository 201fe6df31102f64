from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.data.dataset import Chat, ChatTurn
from pipeline.errors import InputError
from pipeline.quantize.imatrix import reject_too_few_chats
from pipeline.sources.model_source import Source
from tests.pipeline.chatml import byte_tokenizer


def test_too_few_chats_are_refused_before_anything_is_converted(tmp_path: Path) -> None:
    base = Source("base", tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 256}))
    chats = [Chat((ChatTurn("user", "Hi"), ChatTurn("assistant", "Ahoy")), 1)]
    reject_too_few_chats("few.jsonl", chats, base)  # without a tokenizer, the converter reports the error
    byte_tokenizer().save_pretrained(tmp_path)
    message = r"--calibrate few\.jsonl is \d\d tokens long and 256 are needed: add chats"
    with pytest.raises(InputError, match=message):
        reject_too_few_chats("few.jsonl", chats, base)
    reject_too_few_chats("more.jsonl", chats * 10, base)
    (tmp_path / "tokenizer.json").write_text("not to be read where there is plenty")
    reject_too_few_chats("plenty.jsonl", chats * 2000, base)
