"""Labels: which tokens of a row are trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.data.dataset import IGNORED, encode_chat, render
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
