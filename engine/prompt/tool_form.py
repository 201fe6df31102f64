"""How a chat template takes functions, calls and results, found out by rendering marked ones.

Templates differ in what they want: functions with or without OpenAI's wrapper, arguments as an object or as
JSON text, null or "" beside a call, ids of nine characters. The first form is kept in which all marks are
found, and of which the format of a call can be read (engine.prompt.tool_format). Where a template shows
functions and results but no calls, these are written as text, if the prompt describes how.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, Protocol

from common.message_form import MessageForm, Shaped
from engine.prompt.tool_format import (
    END,
    FUNCTIONS,
    KEYS,
    NAMES,
    VALUES,
    Renderings,
    read_format,
    read_instruction,
    write_calls,
)
from engine.types import CALL_ID, Message, ToolCall, ToolFormat

Messages = Sequence[Mapping[str, Any]]
Functions = Sequence[Mapping[str, Any]]
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Render(Protocol):
    """Renders a conversation with functions; may raise anything for one that a template refuses."""

    def __call__(
        self, messages: list[Shaped], *, tools: list[Any] | None = None, answered: bool = False
    ) -> str:
        """Return the prompt, up to the end of the last message if `answered`."""
        ...


@dataclass(frozen=True)
class ToolForm:
    """How a template takes tools.

    `wrapped` are functions in OpenAI's {"type": "function"}. `empty` is the content of a call without a text.
    A text `beside` a call is kept in its message, split into one of its own, or lost. With `written`, calls
    are given as text in this format.
    """

    wrapped: bool = True
    arguments_as_text: bool = False
    empty: Literal[""] | None = ""
    short_ids: bool = False
    result_parts: bool = False
    beside: Literal["kept", "split", "lost"] = "kept"
    written: ToolFormat | None = None

    def functions(self, functions: Functions) -> list[Any]:
        """Return functions as the template takes them, with a description and parameters."""
        whole = [
            {
                "name": f["name"],
                "description": f.get("description") or "",
                "parameters": {"type": "object", "properties": {}, **(f.get("parameters") or {})},
            }
            for f in functions
        ]
        return [{"type": "function", "function": f} for f in whole] if self.wrapped else whole

    def shape(self, messages: Messages) -> list[Mapping[str, Any]]:
        """Return the messages as the template takes them, but for what MessageForm changes."""
        return [shaped for message in messages for shaped in self._shape_one(message)]

    def _shape_one(self, message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if message["role"] == "tool":
            text = message["content"]
            content = [{"type": "text", "text": text}] if self.result_parts else text
            given = {"tool_call_id": self._id(message.get("tool_call_id", ""))}
            yield {**message, **given, "content": content}
        elif (calls := message.get("tool_calls")) and self.written is not None:
            texts = (message["content"], write_calls(self.written, calls))
            yield {"role": "assistant", "content": "\n".join(filter(None, texts))}
        elif calls:
            text = message["content"]
            if text and self.beside == "split":
                yield {"role": "assistant", "content": text}
            kept = text if text and self.beside == "kept" else self.empty
            yield {"role": "assistant", "content": kept, "tool_calls": [self._call(call) for call in calls]}
        else:
            yield message

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call["arguments"]
        given = json.dumps(arguments, ensure_ascii=False) if self.arguments_as_text else arguments
        function = {"name": call["name"], "arguments": given}
        return {"id": self._id(call["id"]), "type": "function", "function": function}

    def _id(self, given: str) -> str:
        """Return the id as it is, or one of nine letters and digits for it."""
        return short_id(given) if self.short_ids else given


def short_id(given: str) -> str:
    """Return the same nine letters and digits for the same id, which it may be itself."""
    if _SHORT_ID.fullmatch(given):
        return given
    number = int.from_bytes(hashlib.sha256(given.encode("utf-8", "replace")).digest()[:8], "big")
    return "".join(_DIGITS[number // 62**place % 62] for place in range(9))


_ASKED: Message = {"role": "user", "content": "qzasked1"}
_BRIEF: Message = {"role": "system", "content": "qzbrief1"}
_NEXT: list[Message] = [
    {"role": "assistant", "content": "qzanswer1"},
    {"role": "user", "content": "qzasked2"},
]
_TEXT = "qztext1"
_RESULTS = ("qzresult1", "qzresult2")
_ID = "call_qzid"
_EMPTY: tuple[Literal[""] | None, ...] = ("", None)
_WAYS: tuple[Literal["kept", "split"], ...] = ("kept", "split")


MARKED = ToolForm().functions(FUNCTIONS)
"""Functions as templates usually take them, to find out how a template for tools takes messages."""


def find_tools(render: Render, form: MessageForm, ends: Sequence[str]) -> tuple[ToolForm, ToolFormat] | None:
    """Return how a template takes tools and how the model writes calls; None if it has none.

    `ends` are spellings of tokens that end an answer. None also means that a call cannot be read.
    """
    search = _Search(render, form, ends)
    for wrapped in (True, False):
        if not search.shows_functions(ToolForm(wrapped)):
            continue
        for as_text, short in product((False, True), (False, True)):
            for empty in _EMPTY:
                if found := search.try_form(ToolForm(wrapped, as_text, empty, short)):
                    return found
        if found := search.try_written(ToolForm(wrapped)):
            return found
    return None


class _Search:
    def __init__(self, render: Render, form: MessageForm, ends: Sequence[str]) -> None:
        self._render, self._form, self._ends = render, form, ends

    def try_form(self, tools: ToolForm) -> tuple[ToolForm, ToolFormat] | None:
        """Return the form with what was found of results and texts, if it shows all else."""
        return self._with_results(tools, read_format(_Rendered(self, tools), self._ends))

    def try_written(self, tools: ToolForm) -> tuple[ToolForm, ToolFormat] | None:
        """Return the form with calls as text, if the prompt describes them."""
        written = read_instruction(self.text(tools, [_ASKED]) or "")
        return self._with_results(replace(tools, written=written), written)

    def _with_results(
        self, tools: ToolForm, call_format: ToolFormat | None
    ) -> tuple[ToolForm, ToolFormat] | None:
        if call_format is None:
            return None
        for parts in (False, True):
            whole = replace(tools, result_parts=parts)
            if self._shows_result(whole):
                beside = self._beside(whole)
                ids = replace(call_format, short_ids=whole.short_ids)
                return replace(whole, beside=beside), ids
        return None

    def shows_functions(self, tools: ToolForm) -> bool:
        """Return whether name, description and parameter of each function reach the prompt."""
        places = [[_ASKED], [_ASKED, *_NEXT]]
        if self._form.system != "nowhere":
            places.append([_BRIEF, _ASKED])
        marks = [*NAMES, *(f"{name}says" for name in NAMES), *KEYS]
        return all(self._shows(tools, messages, marks) for messages in places)

    def _shows_result(self, tools: ToolForm) -> bool:
        called = [_ASKED, marked_call(0), _result(0)]
        known = ("qzasked1", NAMES[0], KEYS[0], VALUES[0], _RESULTS[0])
        return self._shows(tools, called, known) and self._shows(
            tools, [*called, *_NEXT], (*known, "qzanswer1", "qzasked2")
        )

    def _beside(self, tools: ToolForm) -> Literal["kept", "split", "lost"]:
        spoken: Message = {**marked_call(0), "content": _TEXT}
        for way in _WAYS:
            turn, marks = [_ASKED, spoken, _result(0)], (_TEXT, VALUES[0], _RESULTS[0])
            form = replace(tools, beside=way)
            if self._shows(form, turn, marks) and self._shows(form, [*turn, *_NEXT], marks):
                return way
        return "lost"

    def _shows(self, tools: ToolForm, messages: Sequence[Message], marks: Sequence[str]) -> bool:
        text = self.text(tools, messages)
        return text is not None and all(mark in text for mark in marks)

    def text(self, tools: ToolForm, messages: Sequence[Message], *, answered: bool = False) -> str | None:
        """Return a conversation with the marked functions, None if the template refuses it."""
        shaped = self._form.shape(tools.shape(messages))
        try:
            return self._render(shaped, tools=tools.functions(FUNCTIONS), answered=answered)
        except Exception:  # noqa: BLE001 - an untrusted template may raise anything
            return None


class _Rendered(Renderings):
    """What `read_format` compares, in one form of messages."""

    def __init__(self, search: _Search, tools: ToolForm) -> None:
        self._search, self._tools = search, tools

    def prompt(self) -> str | None:
        """Return the prompt of a question."""
        return self._search.text(self._tools, [_ASKED])

    def answer(self) -> str | None:
        """Return the question with an answer, END."""
        return self._search.text(self._tools, [_ASKED, {"role": "assistant", "content": END}], answered=True)

    def calls(self, *arguments: Mapping[str, Any]) -> str | None:
        """Return the question with one call for each of the arguments, its ids as CALL_ID."""
        calls = [_call(number, dict(given)) for number, given in enumerate(arguments)]
        message: Message = {"role": "assistant", "content": "", "tool_calls": calls}
        text = self._search.text(self._tools, [_ASKED, message], answered=True)
        for call in calls if text is not None else ():
            spelled = short_id(call["id"]) if self._tools.short_ids else call["id"]
            text = (text or "").replace(spelled, CALL_ID)
        return text


def marked_call(number: int) -> Message:
    """Return a message with one marked call."""
    arguments = {KEYS[0]: VALUES[0]}
    return {"role": "assistant", "content": "", "tool_calls": [_call(number, arguments)]}


def _call(number: int, arguments: dict[str, Any]) -> ToolCall:
    return {"id": f"{_ID}{number}", "name": NAMES[number], "arguments": arguments}


def _result(number: int) -> Message:
    return {
        "role": "tool",
        "content": _RESULTS[number],
        "tool_call_id": f"{_ID}{number}",
        "name": NAMES[number],
    }
