from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.chat_templates import expand_name
from pipeline.data.chat_template import message_form, reject_lost_messages, set_template
from pipeline.data.dataset import encode_chat, read_chats
from pipeline.errors import InputError
from tests.pipeline.chatml import CHATML, byte_tokenizer, trained_text

PARTS = CHATML.replace(
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
    "{{'<|im_start|>' + message['role'] + '\n'}}{% for part in message['content'] %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{'<|im_end|>' + '\n'}}",
)


def chats(path: Path, *roles: str) -> Any:
    messages = [{"role": role, "content": f"{role} says {n}"} for n, role in enumerate(roles)]
    path.write_text(json.dumps({"messages": messages}))
    return read_chats(path)


def test_a_template_that_wants_parts_is_trained_with_parts(tmp_path: Path) -> None:
    (chat,) = chats(tmp_path / "c.jsonl", "system", "user", "assistant", "user", "assistant")
    plain, parts = byte_tokenizer(), byte_tokenizer()
    parts.chat_template = PARTS
    assert message_form(parts).parts == {"system", "user", "assistant"}
    assert encode_chat(parts, chat, 1000) == encode_chat(plain, chat, 1000)
    assert trained_text(parts, encode_chat(parts, chat, 1000).labels) == (
        "assistant says 2<|im_end|>assistant says 4<|im_end|>"
    )


@pytest.mark.parametrize(
    ("template", "roles", "lost"),
    [
        (CHATML, "system user assistant user assistant", ""),
        (PARTS, "system user assistant", ""),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "user assistant", ""),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            "system user assistant",
            "message 1: what the system says",
        ),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "user assistant",
            "message 2",
        ),
        (
            "{% for m in messages[-2:] %}{{ m.content }}{% endfor %}",
            "user assistant user assistant",
            "message 1",
        ),
        ("{{ messages[-1].content }}", "user assistant", "message 1: what the user says"),
        ("[INST] [/INST]", "user assistant", "message 1"),
        (
            "{% for m in messages %}{% for p in m.content %}{{ p.x }}{% endfor %}{% endfor %}",
            "user assistant",
            "1",
        ),
        ("{{ raise_exception('no') }}", "user assistant", ""),
    ],
)
def test_what_would_be_lost_is_refused_before_training(
    template: str, roles: str, lost: str, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    found = chats(tmp_path / "c.jsonl", *roles.split())
    if not lost:
        reject_lost_messages(tokenizer, found)
        return
    with pytest.raises(
        InputError, match=rf"c\.jsonl, line 1, .*{lost}.*does not reach the prompt.*--template"
    ):
        reject_lost_messages(tokenizer, found)


def test_a_template_that_is_a_name_or_one_of_several() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "chatml"
    set_template(tokenizer)
    assert tokenizer.chat_template == expand_name("chatml")
    tokenizer.chat_template = {"default": CHATML, "tool_use": "x"}
    set_template(tokenizer)
    assert tokenizer.chat_template == CHATML
    set_template(tokenizer, "zephyr")
    assert tokenizer.chat_template == expand_name("zephyr")
    tokenizer.chat_template = "unsloth"
    with pytest.raises(InputError, match="'unsloth' is neither Jinja nor one of"):
        set_template(tokenizer)
