"""Labels: which tokens of a row are trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from common.chat_templates import builtin_names
from pipeline.data.chat_template import set_template
from pipeline.data.dataset import IGNORED, PlainText, encode_chat, encode_row, render
from pipeline.data.encoding import require_train_on
from pipeline.errors import InputError
from tests.pipeline.chatml import CHATML, byte_tokenizer, trained_text
from tests.pipeline.data.chats import bob, chat, system, user

# Renders earlier answers without their text, as some "thinking" templates do.
FORGETFUL = (
    "{% for message in messages %}{% if message.role == 'user' or loop.last %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


def test_labels_are_the_answers_and_their_end(tokenizer: Any) -> None:
    talk = chat(system("Be kind."), user("Hi"), bob("Ahoy, matey! 🦜"), user("Bye\n"), bob(" Fair winds \n"))
    example = encode_chat(tokenizer, talk, max_length=1000)
    assert trained_text(tokenizer, example.labels) == "Ahoy, matey! 🦜<|im_end|> Fair winds \n<|im_end|>"
    assert tokenizer.decode(example.input_ids) == render(tokenizer, talk)
    assert all(
        label in (IGNORED, token) for label, token in zip(example.labels, example.input_ids, strict=True)
    )
    assert not example.truncated


def test_long_chats_are_cut_at_the_end(tokenizer: Any) -> None:
    talk = chat(user("Hi"), bob("Ahoy there"))
    whole = encode_chat(tokenizer, talk, max_length=1000)
    cut = encode_chat(tokenizer, talk, max_length=len(whole.input_ids) - 6)
    assert cut.truncated
    assert trained_text(tokenizer, cut.labels) == "Ahoy t"  # without "here", the end token and the newline
    assert encode_chat(tokenizer, talk, max_length=5).answer_tokens == 0


def test_a_special_token_in_a_message_is_refused(tokenizer: Any) -> None:
    talk = replace(chat(user("Hi <|im_end|>"), bob("Ahoy"), line=12), file="bob.jsonl")
    with pytest.raises(
        InputError,
        match=r"bob\.jsonl, line 12, message 1: '<\|im_end\|>' is one of the model's own special tokens",
    ):
        encode_chat(tokenizer, talk, max_length=1000)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (FORGETFUL, "line 3: .* renders earlier turns differently"),
        (NO_SYSTEM, "line 3: .*no system role"),
    ],
)
def test_templates_that_do_not_fit_are_told(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str, message: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    talk = chat(system("Be"), user("Hi"), bob("Yo"), user("Hm"), bob("Aye"), line=3)
    with pytest.raises(InputError, match=message):
        encode_chat(tokenizer, talk, max_length=1000)


def plain(text: str) -> PlainText:
    return PlainText(text, 5, "quotes.csv", "sea")


def test_a_plain_text_is_trained_on_whole_with_its_end(tokenizer: Any) -> None:
    example = encode_row(tokenizer, plain("Sea: é"), 1000)
    assert tokenizer.decode(example.input_ids) == "Sea: é<|im_end|>"
    assert example.labels == example.input_ids and example.category == "sea"
    cut = encode_row(tokenizer, plain("Sea: é"), 3)
    assert cut.truncated and tokenizer.decode(cut.input_ids) == "Sea"
    with pytest.raises(InputError, match=r"quotes.csv, line 5: '<\|im_end\|>' is one of the model's own"):
        encode_row(tokenizer, plain("Sea <|im_end|>"), 1000)


def test_a_tokenizer_that_adds_both_ends_adds_them_once() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 0), ("<|im_end|>", 1)]
    )
    assert tokenizer.decode(encode_row(tokenizer, plain("Sea"), 99).input_ids) == "<|im_start|>Sea<|im_end|>"


def test_the_last_answer_is_trained_on_if_asked(tokenizer: Any) -> None:
    talk = replace(chat(user("Hi"), bob("Ahoy"), user("Bye"), bob("Farewell")), category="sea")
    last, both = (encode_row(tokenizer, talk, 1000, train_on=which) for which in ("last", "all"))
    assert trained_text(tokenizer, last.labels) == "Farewell<|im_end|>"
    assert trained_text(tokenizer, both.labels) == "Ahoy<|im_end|>Farewell<|im_end|>"
    assert last.input_ids == both.input_ids and last.category == "sea"
    with pytest.raises(InputError, match="--train-on 'first' is unknown: use last or all"):
        require_train_on("first")


def test_a_template_that_forgets_earlier_answers_trains_the_last(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", FORGETFUL)
    talk = chat(user("Hi"), bob("Yo"), user("Hm"), bob("Aye"), line=3)
    assert (
        trained_text(tokenizer, encode_row(tokenizer, talk, 1000, train_on="last").labels) == "Aye<|im_end|>"
    )
    with pytest.raises(InputError, match=r"line 3: .*use single-turn chats, or --train-on last"):
        encode_row(tokenizer, talk, 1000)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "nothing of it is trained on",
        ),
        (
            "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}",
            "all of it would be trained",
        ),
    ],
)
def test_a_mask_that_is_empty_or_full_is_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str, message: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(InputError, match=f"the data set, line 7: {message}"):
        encode_row(tokenizer, chat(user("Hi"), bob("Yo"), line=7), 1000)


def test_an_answer_ends_before_the_next_question_without_end_tokens(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A: ' }}{{ m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}A: {% endif %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    example = encode_row(tokenizer, chat(user("Hi"), bob("Yo"), user("Hm"), bob("Aye")), 1000)
    assert trained_text(tokenizer, example.labels) == "Yo\nAye\n"


def test_the_token_that_begins_the_next_turn_ends_an_answer_that_has_no_other() -> None:
    """GLM's templates write <|user|> after an answer only as the beginning of the next question."""
    tokenizer = byte_tokenizer()
    marks = {"additional_special_tokens": ["<|user|>", "<|assistant|>"]}
    tokenizer.add_special_tokens(marks)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    example = encode_row(tokenizer, chat(user("Hi"), bob("Yo"), user("Hm"), bob("Aye")), 1000)
    assert trained_text(tokenizer, example.labels) == "Yo<|user|>Aye"


def test_an_end_of_turn_that_is_no_special_token_is_found() -> None:
    """An added token need not be among the special ones that the tokenizer lists."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|end|>", special=False), AddedToken("<think>", special=False)])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    )
    talk = chat(user("Hi"), bob("<think>Hm Yo"), user("Hm"), bob("Aye"))
    example = encode_row(tokenizer, talk, 1000)
    assert trained_text(tokenizer, example.labels) == "<think>Hm Yo<|end|>Aye<|end|>"
    with pytest.raises(InputError, match=r"message 2: '<\|end\|>' is one of the model's own"):
        encode_row(tokenizer, chat(user("Hi"), bob("Yo <|end|>")), 1000)


def test_no_named_template_trains_on_a_question() -> None:
    talk = chat(user("Hi"), bob("Ahoy there"), user("Bye"), bob("Farewell"))
    refused = []
    for name in builtin_names():
        tokenizer = byte_tokenizer()
        set_template(tokenizer, name)
        try:
            trained = trained_text(tokenizer, encode_row(tokenizer, talk, 1000).labels)
        except InputError as error:
            assert "renders earlier turns differently" in str(error)
            refused.append(name)
            continue
        assert "Hi" not in trained and "Bye" not in trained, name
        assert trained.index("Ahoy there") < trained.index("Farewell"), name
    assert refused == ["bailing-think", "yandex"]
