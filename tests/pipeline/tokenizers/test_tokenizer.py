"""The choice of tokenizer and chat template, with a note on each difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.tokenizers.select import TokenizerChoice, choose_tokenizer

TOKENS = {"a": 0, "b": 1, "</s>": 2}


def folder(path: Path, tokens: dict[str, int] | None = None, template: str = "", **config: Any) -> Path:
    path.mkdir()
    if tokens is not None:
        (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}, "added_tokens": []}))
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (path / "chat_template.jinja").write_text(template)
    return path


def choose(base: Path, *adapters: Path, rows: int = 10) -> TokenizerChoice:
    found = [Adapter(Source(path.name, path, None), {}, {}) for path in adapters]
    return choose_tokenizer(Source("base", base, None), found, rows)


def test_an_adapter_without_a_tokenizer_leaves_the_bases(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", TOKENS, "base's")
    chosen = choose(base, folder(tmp_path / "adapter"))
    assert chosen == choose(base)
    assert (chosen.template, chosen.notes) == ("base's", ())


def test_a_copy_of_the_bases_tokenizer_changes_nothing(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", TOKENS, "base's", eos_token="</s>")
    copy = folder(tmp_path / "adapter", TOKENS, "base's", eos_token={"content": "</s>"})
    assert choose(base, copy) == choose(base)


def test_added_tokens_and_another_end_are_told(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", TOKENS, "base's", eos_token="</s>")
    (base / "tokenizer.model").touch()
    adapter = folder(tmp_path / "mine", {**TOKENS, "<|end|>": 3, "c": 4}, eos_token="<|end|>")
    chosen = choose(base, adapter)
    assert chosen.files["tokenizer.json"].parent == adapter
    assert chosen.files["tokenizer.model"].parent == base
    assert chosen.template == "base's"  # the adapter has none
    assert chosen.notes == (
        "the adapter's tokenizer ('mine') adds 2 tokens, '<|end|>' first",
        "eos_token is the adapter's ('mine'): '<|end|>', not the base's '</s>'",
    )


def test_another_vocabulary_takes_the_place_of_all_of_the_bases_files(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", TOKENS)
    (base / "added_tokens.json").write_text("{}")
    adapter = folder(tmp_path / "mine", {"b": 0, "a": 1, "</s>": 2})
    chosen = choose(base, adapter)
    assert {path.parent for path in chosen.files.values()} == {adapter}
    assert chosen.notes == (
        "the adapter's tokenizer ('mine') gives 'a' and 1 more token other numbers than the base's "
        "(1, not 0)",
    )


def test_tokens_without_a_row_leave_the_bases_tokenizer(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", TOKENS)
    chosen = choose(base, folder(tmp_path / "mine", {**TOKENS, "<pad>": 3}), rows=3)
    assert chosen.files == choose(base).files
    assert chosen.notes == (
        "the tokenizer is the base's: the adapter's ('mine') has '<pad>', "
        "for which the 3 rows of the embeddings leave no room",
    )


def test_the_last_adapters_chat_template_is_used(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", TOKENS, "base's")
    first = folder(tmp_path / "first", template="first's")
    second = folder(tmp_path / "second", TOKENS, chat_template="second's")
    chosen = choose(base, first, second)
    assert chosen.template == "second's"
    assert [note.partition("(")[2][:8] for note in chosen.notes] == ["'first')", "'second'"]


@pytest.mark.parametrize(
    "content",
    [
        {"model": 5},
        {"model": {"vocab": {"a": "0"}}},
        {"model": {"vocab": {"a": None}}},
        {"model": {"vocab": [[]]}},
        {"model": {"vocab": [[["a"], 0.0]]}},
        {"added_tokens": ["a"]},
        {"added_tokens": [{"content": "a"}]},
    ],
)
def test_a_malformed_tokenizer_is_refused(tmp_path: Path, content: object) -> None:
    base = folder(tmp_path / "base", TOKENS)
    adapter = folder(tmp_path / "mine", TOKENS)
    (adapter / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer's files in .*mine are damaged \(.*download them again"):
        choose(base, adapter)


def test_half_a_character_in_a_template_is_refused(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", TOKENS, chat_template="\ud800")
    with pytest.raises(InputError, match=r"tokenizer_config\.json has a chat_template that is no text"):
        choose(base)
