"""Notes on the data of a training: leaks, texts without an end, rows beyond the base's context."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import FalconConfig, GPT2Config, LlamaConfig

from pipeline.data.dataset import Chat, ChatTurn, Example, PlainText, Row
from pipeline.errors import InputError
from pipeline.training.data_notes import data_notes

WITH_EOS, WITHOUT = SimpleNamespace(eos_token_id=1), SimpleNamespace(eos_token_id=None)


def chat(question: str, line: int) -> Chat:
    return Chat((ChatTurn("user", question), ChatTurn("assistant", "Yes")), line)


def notes(
    settings: Any, *, rows: list[Row], valid: list[Row], length: int = 8, tokenizer: Any = WITH_EOS
) -> list[str]:
    ids = list(range(length))
    return list(data_notes(settings, tokenizer, rows, valid, [Example(ids, ids, truncated=False)]))


def test_rows_that_are_held_out_and_trained_on_are_counted() -> None:
    rows: list[Row] = [chat("A", 1), chat("B", 2)]
    assert notes(LlamaConfig(), rows=rows, valid=[chat("C", 1)]) == []
    (found,) = notes(LlamaConfig(), rows=rows, valid=[chat("B", 1), chat("C", 2)])
    assert found.startswith("1 held-out row is trained on too (--valid)")


def test_a_text_without_an_end_is_told() -> None:
    rows: list[Row] = [PlainText("A text.", 1)]
    assert notes(LlamaConfig(), rows=rows, valid=[]) == []
    (found,) = notes(LlamaConfig(), rows=rows, valid=[], tokenizer=WITHOUT)
    assert "no end-of-text token" in found
    assert notes(LlamaConfig(), rows=[chat("A", 1)], valid=[], tokenizer=WITHOUT) == []


def test_rows_beyond_the_context_are_told_and_refused_where_positions_are_learned() -> None:
    rows: list[Row] = [chat("A", 1)]
    llama = LlamaConfig(max_position_embeddings=64)
    assert notes(llama, rows=rows, valid=[], length=64) == []
    (found,) = notes(llama, rows=rows, valid=[], length=65)
    assert found == (
        "the longest row has 65 tokens, and the base's context is 64, beyond which it was not trained: "
        "--max-length 64 cuts there"
    )
    falcon = FalconConfig(alibi=True, max_position_embeddings=64)
    assert len(notes(falcon, rows=rows, valid=[], length=65)) == 1
    with pytest.raises(InputError, match=r"65 tokens, and the base's context is 64: give --max-length 64"):
        notes(GPT2Config(n_positions=64), rows=rows, valid=[], length=65)
