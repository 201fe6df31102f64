"""A chat template as plain strings around the messages, found by rendering marked messages.

Ollama's templates are Go's (text/template), a GGUF's are Jinja. Most chat templates put fixed words around
each message and no more; those can be said in both. Whether one is of that kind is checked by rendering.
White space around a message, which some templates trim, makes no difference here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.types import Message, Role

Render = Callable[[Sequence[Message]], str]
"""A conversation to its prompt, up to where the assistant begins."""


_SYSTEM, _QUESTION, _ANSWER, _LAST = "mark-system", "mark-question", "mark-answer", "mark-last"


@dataclass(frozen=True)
class Turns:
    """The strings around messages.

    `alone` begins a conversation without a system message; `before_system` and `after_system` go around one;
    `after_user` leads to the answer, and `after_assistant` to the next question.
    """

    alone: str
    before_system: str
    after_system: str
    after_user: str
    after_assistant: str

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that these strings make of a conversation of questions and answers in turn."""
        begin = self.alone
        if messages[0]["role"] == "system":
            begin = f"{self.before_system}{messages[0]['content']}{self.after_system}"
            messages = messages[1:]
        after = {"user": self.after_user, "assistant": self.after_assistant}
        return begin + "".join(f"{message['content']}{after[message['role']]}" for message in messages)


def find_turns(render: Render) -> Turns | None:
    """The strings of a template; None when it does more than put strings around messages."""
    turns = _guess(render)
    if turns is None:
        return None
    return turns if all(turns.render(talk) == render(talk) for talk in _conversations()) else None


def _guess(render: Render) -> Turns | None:
    talk = _talk(_QUESTION, _ANSWER, _LAST)
    marks = [_QUESTION, _ANSWER, _LAST]
    plain = _around(render(talk), marks)
    full = _around(render([_message("system", _SYSTEM), *talk]), [_SYSTEM, *marks])
    if plain is None or full is None:
        return None
    return Turns(plain[0], full[0], full[1], plain[1], plain[2])


def _around(text: str, marks: Sequence[str]) -> list[str] | None:
    """What stands before, between and after the marks; None unless each stands there once, in order."""
    parts, rest = list[str](), text
    for mark in marks:
        if rest.count(mark) != 1:
            return None
        before, rest = rest.split(mark)
        parts.append(before)
    return [*parts, rest]


def _conversations() -> list[list[Message]]:
    """Of other lengths and other words than those that the strings were found with."""
    talks = [_talk("Hi"), _talk("One?", "1", "Two?"), _talk("a", "b", "c", "d", "e")]
    return talks + [[_message("system", "Be brief."), *talk] for talk in talks]


def _talk(*texts: str) -> list[Message]:
    roles: tuple[Role, Role] = ("user", "assistant")
    return [_message(roles[place % 2], text) for place, text in enumerate(texts)]


def _message(role: Role, text: str) -> Message:
    return {"role": role, "content": text}


_PARAMETERS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


def modelfile(file: str, turns: Turns | None, ends: Sequence[str], recommended: Mapping[str, float]) -> str:
    """The text of a Modelfile for a GGUF that lies beside it.

    `ends` are the spellings of the tokens that end an answer. Without `turns`, Ollama is left to recognize
    the template that the GGUF carries.
    """
    lines = [f"FROM ./{Path(file).name}"]
    lines += [f'TEMPLATE """{go_template(turns)}"""'] if turns else []
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends]
    lines += [
        f"PARAMETER {_PARAMETERS[name]} {value:g}"
        for name, value in recommended.items()
        if name in _PARAMETERS
    ]
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """The strings as a template over Ollama's `.System` and `.Messages`.

    All text stands in quoted strings, as `{{-` would eat white space beside it.
    """
    say = {name: _quoted(value) for name, value in vars(turns).items()}
    return (
        f"{{{{- if .System }}}}{say['before_system']}{{{{ .System }}}}{say['after_system']}"
        f"{{{{- else }}}}{say['alone']}{{{{- end }}}}"
        '{{- range .Messages }}{{- if eq .Role "user" }}{{ .Content }}'
        f"{say['after_user']}"
        '{{- else if eq .Role "assistant" }}{{ .Content }}'
        f"{say['after_assistant']}"
        "{{- end }}{{- end }}"
    )


def _quoted(text: str) -> str:
    """A string of Go's inside an action; Go reads JSON's escapes; `"` thrice would end the TEMPLATE."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
