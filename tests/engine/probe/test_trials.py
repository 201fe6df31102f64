"""Trials of a file's tokenizer, template and vocabulary: a bad one is refused by its cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.tiny_gguf import CHATML, KINDS, Vocabulary, vocabulary, write_model
from engine.errors import ModelError
from engine.probe import trials
from engine.probe.child import inspect
from engine.probe.cpu_backend import probe_model
from tests.ggufio.test_summary import write


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_tokenizer_passes(kind: str, tmp_path: Path) -> None:
    found = probe_model(write_model(tmp_path / f"{kind}.gguf", kind), cache=tmp_path)
    assert found.facts.name == "tiny"


def without_bytes() -> Vocabulary:
    words = vocabulary("llama")
    keep = [n for n, token in enumerate(words.tokens) if not token.startswith("<0x")]
    return Vocabulary(*([part[n] for n in keep] for part in (words.tokens, words.types, words.scores)))


def a_byte_misspelled() -> Vocabulary:
    words = vocabulary("llama")
    words.tokens[words.tokens.index("<0xC3>")] = "<0XC3>"
    return words


@pytest.mark.parametrize("words", [without_bytes(), a_byte_misspelled()], ids=["no bytes", "one byte"])
def test_a_tokenizer_that_crashes_on_some_characters_is_refused(words: Vocabulary, tmp_path: Path) -> None:
    path = write_model(tmp_path / "bad.gguf", words=words)
    with pytest.raises(ModelError, match="its tokenizer crashes llama"):
        probe_model(path, cache=tmp_path)


@pytest.mark.parametrize(
    "condition",
    ["messages|length > 5", "messages[0]['role'] == 'assistant'", "messages[-1]['content']|length > 9000"],
)
def test_a_template_that_loops_for_some_shapes_is_refused(condition: str, tmp_path: Path) -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = "{% if " + condition + " %}" + loop + "{% endif %}" + CHATML
    path = write_model(tmp_path / "bad.gguf", template=template)
    with pytest.raises(ModelError, match="its chat template takes too long"):
        probe_model(path, cache=tmp_path)


def test_a_template_may_refuse_some_shapes(tmp_path: Path) -> None:
    only_short = "{% if messages|length > 3 %}{{ raise_exception('too many') }}{% endif %}" + CHATML
    assert probe_model(write_model(tmp_path / "good.gguf", template=only_short), cache=tmp_path)


def test_a_huge_token_is_tried_with_a_schema(tmp_path: Path) -> None:
    """Such a token once crashed llama.cpp's grammars; refused or not, the probe comes to an end."""
    words = vocabulary("llama")
    words.tokens[-1] = "\u0295" * 50_000
    path = write_model(tmp_path / "huge.gguf", words=words)
    try:
        probe_model(path, cache=tmp_path)
    except ModelError as error:
        assert "its vocabulary" in str(error) or "its tokenizer" in str(error)


def test_the_characters_have_every_lead_byte_of_utf_8() -> None:
    seen = {byte for character in trials._characters() for byte in character.encode()}
    assert seen == {*range(0x80), *range(0x80, 0xC0), *range(0xC2, 0xF5)}


@pytest.mark.parametrize(
    ("architecture", "metadata", "wanted"),
    [
        ("bert", {}, r"an embedding \(encoder\) model \(bert\), with which nobody can chat"),
        ("t5", {}, r"an encoder-decoder \(t5\), with which nobody can chat"),
        ("qwen3", {"qwen3__pooling_type": 3}, r"an embedding model \(qwen3, pooling_type 3\), with which"),
        ("llama", {"general__type": "mmproj"}, "the image or audio encoder of another model"),
        ("llama", {"general__type": "imatrix"}, "an importance matrix, with which nobody can chat"),
        ("llama", {"general__type": "adapter"}, "a LoRA adapter, no model: name it after its base"),
    ],
)
def test_what_nobody_can_chat_with_is_told_at_opening(
    tmp_path: Path, architecture: str, metadata: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(ModelError, match=wanted):
        inspect(write(tmp_path / "chat-Q4_K_M.gguf", architecture, **metadata), "")
