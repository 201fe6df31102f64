from __future__ import annotations

import pytest

from common.message_form import MessageForm, find_form
from engine.errors import ModelError
from engine.prompt.chat_template import ChatTemplate
from engine.prompt.jinja_environment import environment
from engine.types import Message
from tests.engine.prompt.real_templates import ALPACA, TEMPLATES

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIRST_ONLY = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }} {% endfor %}"
)


def _chat(text: str) -> list[Message]:
    """Return a conversation of "role:text" words."""
    roles = {"s": "system", "u": "user", "a": "assistant", "d": "developer"}
    pairs = (word.split(":") for word in text.split())
    return [{"role": roles[role], "content": content} for role, content in pairs]  # type: ignore[typeddict-item]


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_templates(name: str) -> None:
    source, parts, system = TEMPLATES[name]
    template = ChatTemplate(source, "<s>", "</s>")
    assert (template.form.parts, template.form.system) == (frozenset(parts), system)
    for text in ("u:Q1", "s:S1 u:Q1", "u:Q1 a:A1 u:Q2", "s:S1 u:Q1 a:A1 u:Q2", "s:S1 u:Q1 a:A1 s:S2 u:Q2"):
        chat = _chat(text)
        if source == ALPACA and "a:" in text:
            continue
        prompt = template.render(chat)
        assert all(message["content"] in prompt for message in chat), prompt
        if not parts and (system != "nowhere" or "s:" not in text) and text.count("s:") < 2:
            plain = environment().from_string(source)
            options = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None}
            assert prompt == plain.render(messages=chat, documents=None, **options), "as before"


def test_parts_are_given_where_a_template_wants_them() -> None:
    prompt = ChatTemplate(PARTS, "<s>", "</s>").render(_chat("s:BRIEF u:What a:4 u:"))
    assert prompt == (
        "<|im_start|>system\nBRIEF<|im_end|>\n<|im_start|>user\nWhat<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "who"),
    [
        ("<|im_start|>user\n<|im_end|>", "user says does not reach the prompt, nor what the assistant"),
        ("{{ messages[-1].content }}", "user says does not reach the prompt, nor what the assistant"),
        ("{{ messages[0].content }}", "user says does not reach the prompt, nor what the assistant"),
        (
            "{% for m in messages[-3:] %}{{ m.content }}{% endfor %}",
            "user says does not reach the prompt, nor what the assistant",
        ),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "assistant"),
        ("{% for m in messages %}{{ m.content.split('\n')[0] }}{% endfor %}", "user"),
        (
            "{% for m in messages %}{{ m.content[:9] }}{% endfor %}",
            "user says does not reach the prompt, nor what the assistant",
        ),
        ("{% for m in messages %}{% for p in m.content %}{{ p.value }}{% endfor %}{% endfor %}", "user"),
        ("{% for m in messages %}{% for p in m.content %}{{ p }}.{% endfor %}{% endfor %}", "user"),
        ("{% for m in messages %}{{ m.text }}{% endfor %}", "user"),
        ("{% for m in messages %}{{ m['value'] }}{% endfor %}", "user"),
    ],
)
def test_a_template_that_leaves_words_out_is_refused(source: str, who: str) -> None:
    with pytest.raises(ModelError, match=f"^what the {who} says") as refused:
        ChatTemplate(source, "", "")
    assert "--template FILE|NAME" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("s:A s:B u:Q", "[system] A\n\nB [user] Q "),
        ("s:A u:Q1 a:A1 s:B u:Q2", "[system] A\n\nB [user] Q1 [assistant] A1 [user] Q2 "),
        ("u:Q1 s:B u:Q2", "[system] B [user] Q1 [user] Q2 "),
        ("d:A u:Q1 d:B", "[system] A\n\nB [user] Q1 "),
        ("s:A u:Q", "[system] A [user] Q "),
        ("s: u:Q1 s:B", "[system] B [user] Q1 "),
        ("u:Q", "[user] Q "),
    ],
)
def test_late_system_messages_are_put_to_the_first(text: str, prompt: str) -> None:
    assert ChatTemplate(FIRST_ONLY, "", "").render(_chat(text)) == prompt


def test_a_template_that_takes_system_messages_anywhere_gets_them_there() -> None:
    anywhere = FIRST_ONLY.replace("not loop.first", "false")
    prompt = ChatTemplate(anywhere, "", "").render(_chat("s:A u:Q s:B d:C"))
    assert prompt == "[system] A [user] Q [system] B [system] C "


def test_a_late_system_message_is_no_answer() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' and loop.first %}<S>{{ m.content }}"
        "{% elif m.role == 'user' %}<U>{{ m.content }}{% else %}<A>{{ m.content }}{% endif %}{% endfor %}"
    )
    assert ChatTemplate(source, "", "").render(_chat("s:A u:Q s:B u:R")) == "<S>A\n\nB<U>Q<U>R"


def test_a_name_is_llama_cpps_template() -> None:
    assert (
        ChatTemplate("zephyr", "<s>", "</s>").render(_chat("u:Q"))
        == "<|user|>\nQ<|endoftext|>\n<|assistant|>\n"
    )
    with pytest.raises(ModelError, match=r"'llama5' is neither.* bailing, .* zephyr"):
        ChatTemplate("llama5", "", "")


def test_texts_go_before_parts() -> None:
    form = find_form(lambda messages: "".join(str(m["content"]) for m in messages))
    assert form == MessageForm(frozenset(), "first")
