"""Ollama's Modelfile, with the chat template translated from Jinja to Go.

Ollama's templates are Go's (text/template), a GGUF's are Jinja. Most chat templates only put fixed strings
around each message, which both languages can express. The strings are found by rendering marked messages, and
checked by rendering others. White space around a message, which some templates trim, is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import SAMPLING_FIELDS
from engine.types import Message, Role

Render = Callable[[Sequence[Message]], str]
"""Renders a conversation to its prompt, with the generation prompt."""


_SYSTEM, _QUESTION, _ANSWER, _LAST = "mark-system", "mark-question", "mark-answer", "mark-last"


@dataclass(frozen=True)
class Turns:
    """The strings that a chat template puts around messages.

    `without_system` begins a conversation without a system message; `before_system` and `after_system`
    surround one; `after_user` leads to the answer, and `after_assistant` to the next question.
    """

    without_system: str
    before_system: str
    after_system: str
    after_user: str
    after_assistant: str

    def render(self, messages: Sequence[Message]) -> str:
        """Render the prompt of a conversation of alternating questions and answers."""
        begin = self.without_system
        if messages[0]["role"] == "system":
            begin = f"{self.before_system}{messages[0]['content']}{self.after_system}"
            messages = messages[1:]
        after = {"user": self.after_user, "assistant": self.after_assistant}
        return begin + "".join(f"{message['content']}{after[message['role']]}" for message in messages)


def find_turns(render: Render) -> Turns | None:
    """Return the strings of a template; None when it does more than put strings around messages."""
    turns = _extract_turns(render)
    if turns is None:
        return None
    return turns if all(turns.render(chat) == render(chat) for chat in _test_chats()) else None


def _extract_turns(render: Render) -> Turns | None:
    """Find the strings by rendering marked messages."""
    marks = [_QUESTION, _ANSWER, _LAST]
    chat = _chat(*marks)
    plain = _split_at(render(chat), marks)
    full = _split_at(render([_message("system", _SYSTEM), *chat]), [_SYSTEM, *marks])
    if plain is None or full is None:
        return None
    return Turns(plain[0], full[0], full[1], plain[1], plain[2])


def _split_at(text: str, marks: Sequence[str]) -> list[str] | None:
    """Split the text at the marks; None unless each occurs once, in order."""
    parts, rest = list[str](), text
    for mark in marks:
        if rest.count(mark) != 1:
            return None
        before, rest = rest.split(mark)
        parts.append(before)
    return [*parts, rest]


def _test_chats() -> list[list[Message]]:
    """Return conversations of other lengths and with other words than the marked one."""
    chats = [_chat("Hi"), _chat("One?", "1", "Two?"), _chat("a", "b", "c", "d", "e")]
    return chats + [[_message("system", "Be brief."), *chat] for chat in chats]


def _chat(*texts: str) -> list[Message]:
    roles: tuple[Role, Role] = ("user", "assistant")
    return [_message(roles[index % 2], text) for index, text in enumerate(texts)]


def _message(role: Role, text: str) -> Message:
    return {"role": role, "content": text}


def modelfile(
    file: str,
    turns: Turns | None,
    stops: Sequence[str],
    recommended: Mapping[str, float],
    *,
    why: str = "",
    lora: str | None = None,
) -> str:
    """Return the text of a Modelfile for a GGUF in the same folder, and a GGUF `lora` that is loaded on it.

    `stops` are the tokens that end an answer, `why` says why this file was taken out of several. Without
    `turns`, Ollama tries to recognize the GGUF's own template.
    """
    lines = [f"FROM ./{Path(file).name}", *([f"ADAPTER ./{lora}"] if lora else [])]
    lines += [f'TEMPLATE """{go_template(turns)}"""'] if turns else []
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += [
        f"PARAMETER {row.ollama} {recommended[row.name]:g}"
        for row in SAMPLING_FIELDS
        if row.ollama and row.name in recommended
    ]
    lines += [f"# {Path(file).name}: {why}."] if why else []
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """Return the strings as a Go template over Ollama's `.System` and `.Messages`.

    All text is in quoted strings, as `{{-` would trim white space next to it.
    """
    quoted = {name: _quote(value) for name, value in vars(turns).items()}
    return (
        f"{{{{- if .System }}}}{quoted['before_system']}{{{{ .System }}}}{quoted['after_system']}"
        f"{{{{- else }}}}{quoted['without_system']}{{{{- end }}}}"
        '{{- range .Messages }}{{- if eq .Role "user" }}{{ .Content }}'
        f"{quoted['after_user']}"
        '{{- else if eq .Role "assistant" }}{{ .Content }}'
        f"{quoted['after_assistant']}"
        "{{- end }}{{- end }}"
    )


def _quote(text: str) -> str:
    """Return a Go action with the text as a string: Go reads JSON's escapes; three `"` would end TEMPLATE."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
