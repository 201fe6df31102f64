"""Turn a text that holds a conversation into messages: guanaco's ### Human, Llama 2's [INST], ChatML, ...

The marks must cover the text from its beginning to its end; any other text is of no known form.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ROLES = {"human": "user", "model": "assistant", "gpt": "assistant", "bot": "assistant"}


class _Marks(NamedTuple):
    """A form's name, and the pattern of one turn with its groups `role` and `content`."""

    form: str
    turn: re.Pattern[str]


_EDGE = r"(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>|</s>|<eos>|<\|end_of_text\|>|\s)*"
"""What begins or ends a text, and is no part of a message."""


def _marks(form: str, pattern: str) -> _Marks:
    return _Marks(form, re.compile(rf"{_EDGE}{pattern}{_EDGE}", re.DOTALL))


_FORMS = (
    _marks(
        "### Human: ... ### Assistant: ...",
        r"### ?(?P<role>Human|Assistant|System) ?:(?P<content>.*?)"
        rf"(?={_EDGE}(?:### ?(?:Human|Assistant|System) ?:|\Z))",
    ),
    _marks("<|im_start|>", r"<\|im_start\|>(?P<role>\w+)\n(?P<content>.*?)<\|im_end\|>"),
    _marks(
        "<|start_header_id|>",
        r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>(?P<content>.*?)<\|eot_id\|>",
    ),
    _marks("<start_of_turn>", r"<start_of_turn>(?P<role>\w+)\n(?P<content>.*?)<end_of_turn>"),
    _marks(
        "<|user|>", r"<\|(?P<role>system|user|assistant)\|>(?P<content>.*?)(?:<\|end\|>|</s>|<\|endoftext\|>)"
    ),
)
_LLAMA = re.compile(
    rf"{_EDGE}\[INST\](?P<question>.*?)\[/INST\](?P<answer>.*?)(?:</s>{_EDGE}|(?=\[INST\])|\Z)", re.DOTALL
)
_LLAMA_SYSTEM = re.compile(r"\s*<<SYS>>(?P<system>.*?)<</SYS>>(?P<question>.*)", re.DOTALL)
_ALPACA = re.compile(
    r"""\s*(?:Below\ is\ an\ instruction\ that\ describes\ a\ task[^\n]*\n+)?
    \#\#\#\ Instruction:\n?(?P<instruction>.*?)
    (?:\n\s*\#\#\#\ (?:Input|Context):\n?(?P<input>.*?))?
    \n\s*\#\#\#\ (?:Response|Output|Answer):(?P<answer>.*)""",
    re.DOTALL | re.VERBOSE,
)
TEXT_FORMS = (
    "### Human:",
    "[INST]",
    "### Instruction:",
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|user|>",
)
"""How the texts that are read as chats begin."""


class TextChat(NamedTuple):
    """A conversation found in a text; `unanswered` if a last question without an answer was left out."""

    form: str
    messages: list[dict[str, str]]
    unanswered: bool


def parse_text(text: str, *, require_answer: bool = True) -> TextChat | None:
    """Return the conversation that a text holds; None for a text of no known form.

    With `require_answer`, a last question that has no answer is left out, as nothing can be learned from it.
    """
    for form, found in (("[INST]", _llama(text)), ("### Instruction:", _alpaca(text))):
        if found:
            return _answered(form, found, require_answer)
    for form, turn in _FORMS:
        if found := _turns(turn, text):
            return _answered(form, found, require_answer)
    return None


def _turns(turn: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """Return (role, content) of the turns that cover the text; none if they do not."""
    found, place = [], 0
    while place < len(text):
        match = turn.match(text, place)
        if match is None or match.end() == place:
            return []
        role = match["role"].lower()
        found.append((_ROLES.get(role, role), match["content"].strip()))
        place = match.end()
    return found


def _llama(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        match = _LLAMA.match(text, place)
        if match is None or match.end() == place:
            return []
        question = match["question"]
        if not found and (system := _LLAMA_SYSTEM.fullmatch(question)):
            found += [("system", system["system"].strip())] if system["system"].strip() else []
            question = system["question"]
        found += [("user", question.strip()), ("assistant", match["answer"].removesuffix("<s>").strip())]
        place = match.end()
    return found


def _alpaca(text: str) -> list[tuple[str, str]]:
    match = _ALPACA.fullmatch(text)
    if match is None:
        return []
    parts = [match["instruction"].strip(), (match["input"] or "").strip()]
    answer = re.sub(rf"{_EDGE}\Z", "", match["answer"]).strip()
    return [("user", "\n\n".join(part for part in parts if part)), ("assistant", answer)]


def _answered(form: str, turns: list[tuple[str, str]], require_answer: bool) -> TextChat:
    unanswered = False
    if len(turns) > 1 and turns[-1] == ("assistant", ""):
        turns, unanswered = turns[:-1], True
    if require_answer and len(turns) > 2 and turns[-1][0] == "user":
        turns, unanswered = turns[:-1], True
    return TextChat(form, [{"role": role, "content": text} for role, text in turns], unanswered)
