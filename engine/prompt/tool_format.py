"""Reads from renderings of marked calls how a model writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from common.text import common_beginning
from engine.types import CALL_ID, ArgumentFormat, ToolCall, ToolFormat

NAMES = ("qzfirst1f", "qzother2f")
KEYS = ("qzkey1k", "qzkey2k")
VALUES = ("qzvalue1v", "qzvalue2v")
END = "qzend1"
FUNCTIONS: Sequence[Mapping[str, Any]] = [
    {
        "name": name,
        "description": f"{name}says",
        "parameters": {
            "type": "object",
            "properties": {key: {"type": "string", "description": "which"} for key in KEYS},
            "required": list(KEYS),
        },
    }
    for name in NAMES
]
_NESTED = {"qzin": [True, 7]}
_TAG = re.compile(r"<[^<>\s\0]+>|\[[A-Z_]+\]")
_THOUGHT = re.compile(r"\s*(<[^<>/\s]+>)?\s*(</[^<>\s]+>)\s*")
_INSTRUCTION = re.compile(
    r'(<([^<>\s/]+)>\s*)(\{\s*"name":\s*)"?<[^<>]+>"?(,\s*"(?:arguments|parameters)":\s*)<[^<>]+>(\s*\})(\s*</\2>)'
)
_BEFORE_OBJECT = re.compile(r"(?s)(.*?)[\[\s]*\{")


class Renderings(Protocol):
    """Renderings of a question with the marked functions; None where the template refuses them."""

    def prompt(self) -> str | None:
        """Return the prompt of the question."""
        ...

    def answer(self) -> str | None:
        """Return the question with the answer END, without a generation prompt."""
        ...

    def calls(self, *arguments: Mapping[str, Any]) -> str | None:
        """Return the question with an answer that calls a function for each of the arguments."""
        ...


def read_format(rendered: Renderings, ends: Sequence[str]) -> ToolFormat | None:
    """Return the format of calls, None if it cannot be read."""
    prompt, answer = rendered.prompt(), rendered.answer()
    if prompt is None or answer is None or END not in answer:
        return None
    turn = _Turn(prompt, answer, ends)
    read = _read_object(rendered, turn) or _read_arguments(rendered, turn)
    if read is None or not read.trigger:
        return None
    thought = _THOUGHT.fullmatch(answer.partition(END)[0].removeprefix(prompt))
    return replace(read, thought_begin=thought[1] or "", thought_end=thought[2]) if thought else read


def read_instruction(prompt: str) -> ToolFormat | None:
    """Return the format that a prompt describes by {"name": <...>, "arguments": <...>} between tags."""
    if (found := _INSTRUCTION.search(prompt)) is None:
        return None
    begin, middle, end = f'{found[1]}{found[3]}"', f'"{found[4]}', found[5] + found[6]
    return _format(begin, middle, f"{end}\n{begin}", end)


def write_calls(tools: ToolFormat, calls: Sequence[ToolCall]) -> str:
    """Return calls as the model writes them, for a format with JSON objects and a separator."""
    assert tools.separator is not None
    texts = (f"{c['name']}{tools.middle}{json.dumps(c['arguments'], ensure_ascii=False)}" for c in calls)
    return tools.begin + tools.separator.join(texts) + tools.end


class _Turn:
    """Cuts the assistant's turn out of a rendering."""

    def __init__(self, prompt: str, answer: str, ends: Sequence[str]) -> None:
        before, _, self._after = answer.partition(END)
        # A generation prompt may begin a thought that no finished turn has, or end before a space.
        self._before = sorted({before, prompt, before.rstrip()}, key=len, reverse=True)
        self._ends = [end for end in ends if end]

    def __call__(self, text: str | None) -> str | None:
        """Return what the assistant wrote, None if it cannot be told from the rest."""
        if text is None or (start := next((b for b in self._before if text.startswith(b)), None)) is None:
            return None
        said = text[len(start) :]
        places = [at for end in self._ends if (at := said.find(end)) >= 0]
        if places:
            return said[: min(places)]
        common = common_beginning(said[::-1], self._after[::-1])
        return said[: len(said) - len(common)]


def _read_object(rendered: Renderings, turn: _Turn) -> ToolFormat | None:
    """Read calls whose arguments are a JSON object."""
    first, second = {KEYS[0]: VALUES[0], KEYS[1]: _NESTED}, {KEYS[0]: VALUES[1]}
    one = turn(rendered.calls(first))
    if one is None or (single := _split(one, NAMES[0], first)) is None:
        return None
    begin, middle, end = single
    separator = None
    two = turn(rendered.calls(first, second))
    if two is not None and (several := _split(two, NAMES[0], first)) and several[:2] == single[:2]:
        again = _split(several[2], NAMES[1], second)
        separator = again[0] if again and again[1:] == (middle, end) else None
    return _format(begin, middle, separator, end)


def _split(text: str, name: str, arguments: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return what is before a name, between it and the JSON object of its arguments, and after that."""
    before, found, rest = text.partition(name)
    if not found:
        return None
    for brace in re.finditer(r"\{", rest):
        try:
            value, length = json.JSONDecoder().raw_decode(rest[brace.start() :])
        except ValueError:
            continue
        if value == arguments:
            return before, rest[: brace.start()], rest[brace.start() + length :]
    return None


def _read_arguments(rendered: Renderings, turn: _Turn) -> ToolFormat | None:
    """Read calls that write each argument in a form of its own, such as <parameter=KEY>VALUE</parameter>."""
    both, one = dict(zip(KEYS, VALUES, strict=True)), {KEYS[0]: VALUES[1]}
    text = turn(rendered.calls(both))
    parts = _between(text, (NAMES[0], KEYS[0], VALUES[0], KEYS[1], VALUES[1]))
    if parts is None:
        return None
    begin, first, equals, second, again, rest = parts
    before = common_beginning(first[::-1], second[::-1])[::-1]
    middle, after = first[: len(first) - len(before)], second[: len(second) - len(before)]
    if equals != again or not after.strip() or not equals or not rest.startswith(after):
        return None
    end, argument = rest[len(after) :], ArgumentFormat(before, equals, after)
    nested = turn(rendered.calls({KEYS[0]: _NESTED}))
    written = _between(nested, (NAMES[0], KEYS[0]))
    value = (written or ("", "", ""))[2].removeprefix(equals).partition(after)[0]
    if value != json.dumps(_NESTED):
        return None
    separator = None
    two = _between(turn(rendered.calls(both, one)), (VALUES[1], NAMES[1], KEYS[0], VALUES[1]))
    if two is not None and two[1].startswith(after) and two[2:] == (first, equals, rest):
        separator = two[1][len(after) :]
    return _format(begin, middle, separator, end, argument)


def _between(text: str | None, marks: Sequence[str]) -> tuple[str, ...] | None:
    """Return the parts of a text around marks, in their order; None if one is missing."""
    parts = []
    for mark in marks:
        before, found, text = (text or "").partition(mark)
        if not found:
            return None
        parts.append(before)
    return (*parts, text or "")


def _format(
    begin: str, middle: str, separator: str | None, end: str, argument: ArgumentFormat | None = None
) -> ToolFormat:
    """Return the format with its trigger, "" if nothing tells a call from a text."""
    begin, end = begin.lstrip(), end.rstrip()
    tag, before = _TAG.match(begin), _BEFORE_OBJECT.match(begin)
    text = before[1] if before else begin
    trigger = tag[0] if tag else text.strip()
    anywhere = any(char.isalnum() for char in trigger) and CALL_ID not in trigger
    if not anywhere:
        trigger = begin.partition(CALL_ID)[0]
    return ToolFormat(begin, middle, separator, end, trigger, anywhere, argument)
