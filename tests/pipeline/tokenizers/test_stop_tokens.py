"""The token that ends a turn under a template, on vocabularies that have it and that lack it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as TrlCollator

from common.chat_templates import expand_name, read_template
from pipeline.errors import InputError
from pipeline.tokenizers.stop_tokens import (
    StopToken,
    find_stop_token,
    fitting_templates,
    padding_id,
    stop_token,
    training_template,
)
from tests.pipeline.chatml import byte_tokenizer
from tests.pipeline.conftest import Bases

ANSWERED = "{% for m in messages %}{{ m.role + ': ' + m.content + END }}{% endfor %}"


def ending(end: str) -> str:
    return ANSWERED.replace("END", end)


@pytest.fixture(scope="module")
def llama2(bases: Bases) -> Any:
    """Return Llama 2's kind of tokenizer: SentencePiece, <s> and </s>, a BOS before each text."""
    return AutoTokenizer.from_pretrained(bases("llama"), add_bos_token=True)


@pytest.fixture(scope="module")
def added(bases: Bases) -> Any:
    """Return the same with a special token of its own, and with one that is not special."""
    tokenizer = AutoTokenizer.from_pretrained(bases("llama"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|done|>"]})
    tokenizer.add_tokens(["<over>"])
    return tokenizer


@pytest.mark.parametrize(
    ("name", "end"),
    [("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>"), ("gemma", "<end_of_turn>"), ("phi3", "<|end|>")],
)
def test_an_end_that_is_plain_text_is_refused_with_templates_that_fit(
    llama2: Any, name: str, end: str
) -> None:
    with pytest.raises(InputError) as refused:
        stop_token(llama2, expand_name(name))
    assert str(refused.value) == (
        f"the chat template ends an answer with '{end}', which is no token of this vocabulary, so that no "
        "answer would ever stop: use --template llama2, vicuna or alpaca"
    )


@pytest.mark.parametrize("name", ["llama2", "llama2-sys", "vicuna", "mistral-v1", "alpaca"])
def test_templates_that_end_with_the_eos_fit_llama_2(llama2: Any, name: str) -> None:
    assert stop_token(llama2, expand_name(name)) == StopToken(2, "</s>", is_eos=True)


def test_templates_that_fit_are_found_by_the_vocabulary(llama2: Any, real_base: Path) -> None:
    assert fitting_templates(llama2) == ["llama2", "vicuna", "alpaca"]
    assert fitting_templates(byte_tokenizer()) == ["chatml", "alpaca"]
    smollm2 = AutoTokenizer.from_pretrained(real_base)
    assert fitting_templates(smollm2) == ["chatml", "zephyr", "alpaca"]
    assert stop_token(smollm2, expand_name("zephyr")) == StopToken(0, "<|endoftext|>", is_eos=False)


@pytest.mark.parametrize(
    ("end", "text", "is_eos"),
    [
        ("'<|done|>'", "<|done|>", False),
        ("'<over>'", "<over>", False),
        ("eos_token", "</s>", True),
        ("'<|im_end|>' + eos_token + '\n'", "</s>", True),  # plain text, which an EOS follows
        ("' </s> '", "</s>", True),
        ("'<|done|></s>'", "<|done|>", False),  # the first of two
    ],
)
def test_the_first_token_of_the_vocabulary_after_an_answer_ends_it(
    added: Any, end: str, text: str, is_eos: bool
) -> None:
    found = stop_token(added, ending(end))
    assert found == StopToken(added.convert_tokens_to_ids(text), text, is_eos)


def test_an_end_that_only_begins_the_next_turn_is_told_apart(added: Any) -> None:
    source = "{% for m in messages %}{{ '<|done|>' + m.role + m.content }}{% endfor %}"
    found = stop_token(added, source)
    assert (found.text, found.begins_next_turn) == ("<|done|>", True)
    # A BOS before each question, as Llama 2's template has, is not written by a model.
    begins = "{% for m in messages %}{{ ('<s>' if m.role == 'user' else '') + m.content }}{% endfor %}"
    assert find_stop_token(added, begins) is None


def test_no_end_and_no_rendering_are_refused_by_name(llama2: Any) -> None:
    with pytest.raises(
        InputError, match=r"^the chat template ends an answer with nothing, so that .* llama2,"
    ):
        stop_token(llama2, ending("''"))
    for source, reason in (
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('no') }}", r"\(no\)"),
        ("{{ messages[0].content }}", "leaves the answer out"),
    ):
        with pytest.raises(
            InputError, match=rf"does not render .*{reason}.*give another one with --template"
        ):
            stop_token(llama2, source)
        assert find_stop_token(llama2, source) is None


def test_contents_as_lists_of_parts_are_rendered(added: Any) -> None:
    source = "{% for m in messages %}{% for c in m.content %}{{ c['text'] }}{% endfor %}<|done|>{% endfor %}"
    assert stop_token(added, source).text == "<|done|>"


def test_a_padding_that_is_the_stop_token_is_replaced(llama2: Any, added: Any) -> None:
    tokenizer = byte_tokenizer()  # its padding is its EOS, as in many bases
    stop = stop_token(tokenizer, expand_name("chatml"))
    assert padding_id(tokenizer, stop) == tokenizer.bos_token_id != stop.id
    assert padding_id(llama2, stop_token(llama2, ending("eos_token"))) == llama2.unk_token_id == 0
    done = stop_token(added, ending("'<|done|>'"))
    assert padding_id(added, done) == 0
    added.pad_token = "<over>"
    assert padding_id(added, done) == added.convert_tokens_to_ids("<over>")


def test_labels_masked_by_position_keep_a_stop_token_that_pads() -> None:
    tokenizer = byte_tokenizer()
    stop = stop_token(tokenizer, expand_name("chatml")).id
    assert stop == tokenizer.pad_token_id
    rows = [
        {"input_ids": [5, 6, stop], "labels": [-100, 6, stop]},
        {"input_ids": [5, stop], "labels": [5, stop]},
    ]
    kept = TrlCollator(pad_token_id=stop)(rows)["labels"]
    assert kept.tolist() == [[-100, 6, stop], [5, stop, -100]]
    by_id = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": [5, 6, stop]}])["labels"]
    assert torch.equal(by_id, torch.tensor([[5, 6, -100]])), "why another id is taken where there is one"


def test_a_named_template_gets_the_bos_that_the_tokenizer_uses(llama2: Any, tmp_path: Path) -> None:
    named = training_template(llama2, read_template("llama2"))
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    ids = llama2.apply_chat_template(chat, chat_template=named, tokenize=True, return_dict=False)
    assert (ids[0], ids[-1], ids.count(1)) == (1, 2, 1)
    assert stop_token(llama2, named).id == 2
    assert training_template(byte_tokenizer(), read_template("chatml")) == expand_name("chatml")
    (tmp_path / "mine.jinja").write_text(ending("eos_token"))
    assert training_template(llama2, read_template(str(tmp_path / "mine.jinja"))) == ending("eos_token")
    (tmp_path / "name.jinja").write_text("llama2\n")
    assert training_template(llama2, read_template(str(tmp_path / "name.jinja"))) == named
