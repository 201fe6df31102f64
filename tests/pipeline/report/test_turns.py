from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from engine.prompt.chat_template import ChatTemplate
from engine.types import Message
from pipeline.report.ollama import find_turns, go_template, modelfile

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_A_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe \"kind\".<|im_end|>\n' }}{% endif %}"
    + CHATML
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{{ '<|assistant|>\n' if add_generation_prompt else '' }}"
)
GEMMA = (  # rejects system messages: they are put in front of the first question
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}"
    "{% endif %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{{ m['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}"
)
NUMBERED = (  # writes the number of messages, which fixed strings cannot
    "{{ messages | length }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
)


def go(template: str, messages: Sequence[Message]) -> str:
    """Render our templates as Go's text/template does; supports only the five kinds of action in them."""
    system = next((m["content"] for m in messages if m["role"] == "system"), "")
    pieces = re.split(r"(\{\{.*?\}\})", template)
    assert not any(piece for piece in pieces[::2]), "text outside of actions"
    actions = [piece.strip("{}- ") for piece in pieces[1::2]]
    head, body = (
        actions[: actions.index("range .Messages")],
        actions[actions.index("range .Messages") + 1 : -1],
    )
    assert head[0] == "if .System" and actions[-1] == "end"
    return _branch(head, "", {"if .System": bool(system)}, {".System": system}) + "".join(
        _branch(
            body,
            m["content"],
            {
                'if eq .Role "user"': m["role"] == "user",
                'else if eq .Role "assistant"': m["role"] == "assistant",
            },
            {},
        )
        for m in messages
    )


def _branch(actions: Sequence[str], content: str, tests: dict[str, bool], names: dict[str, str]) -> str:
    out, on, done = "", False, False
    for action in actions:
        if action in tests or action == "else":
            on = not done and tests.get(action, True)
            done = done or on
        elif action == "end":
            on = False
        elif on:
            out += {".Content": content, **names}.get(action) if action[0] == "." else json.loads(action)
    return out


@pytest.mark.parametrize(
    "source", [CHATML, WITH_A_DEFAULT, PHI, GEMMA], ids=["chatml", "default", "phi", "gemma"]
)
def test_gos_template_says_what_the_models_says(source: str) -> None:
    template = ChatTemplate(source, "<bos>", "<eos>")
    turns = find_turns(template.render)
    assert turns is not None
    talk: list[Message] = [
        {"role": "user", "content": 'Say "hi"'},
        {"role": "assistant", "content": "hi {{ there }}"},
        {"role": "user", "content": "多谢\n👋"},
    ]
    for messages in (talk, [{"role": "system", "content": "Be brief."}, *talk], talk[:1]):
        assert go(go_template(turns), messages) == template.render(messages)


def test_a_template_that_does_more_is_left_to_ollama() -> None:
    assert find_turns(ChatTemplate(NUMBERED, "", "").render) is None
    text = modelfile(
        "models/bob-Q4_K_M.gguf", None, ["<|im_end|>"], {"temperature": 0.7, "repeat_penalty": 1.1}
    )
    assert text == 'FROM ./bob-Q4_K_M.gguf\nPARAMETER stop "<|im_end|>"\nPARAMETER temperature 0.7\n'
