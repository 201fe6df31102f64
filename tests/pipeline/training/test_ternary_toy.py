"""The untrained ternary model that a learner begins with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from pipeline.cli.make_base import app
from pipeline.errors import InputError
from pipeline.sources.model_source import base_source
from pipeline.sources.ternary import TernaryFormat, find_ternary
from pipeline.training.ternary_toy import make_ternary_toy
from tests.pipeline.training.conftest import CHATS


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS), encoding="utf-8")
    result = CliRunner().invoke(app, ["--ternary", str(data), "--out", str(folder / "toy")])
    assert result.exit_code == 0, result.output
    return folder / "toy"


def test_it_is_ternary_with_rows_of_whole_blocks(toy: Path) -> None:
    found = find_ternary(base_source(str(toy)))
    assert found is not None
    assert found.format == TernaryFormat(online=True, kept=("lm_head",))
    assert {width % 256 for width in found.widths.values()} == {0}
    weights = load_file(toy / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(toy)
    assert len(weights["model.embed_tokens.weight"]) == len(tokenizer)


def test_its_tokenizer_reads_any_text_and_its_turns_end_with_one_token(toy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy)
    for text in ("Aye, 3!  Two spaces\nand 日本語 🦜", " leading", "Question 1?"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    messages = [{"role": "user", "content": "Ahoy"}, {"role": "assistant", "content": "Hello"}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\nAhoy<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    )


def test_an_existing_folder_is_left_alone(toy: Path) -> None:
    before = (toy / "config.json").read_bytes()
    with pytest.raises(InputError, match="exists already: choose another"):
        make_ternary_toy(toy, str(toy.with_name("chats.jsonl")))
    assert (toy / "config.json").read_bytes() == before
