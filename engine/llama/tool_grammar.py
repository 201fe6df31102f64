"""The grammar of answers that may call functions, in llguidance's Lark.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.text import common_beginning
from engine.config import SamplingParams
from engine.errors import RequestError
from engine.llama.constraint import OPTIONS, Matcher, SchemaMatcher
from engine.llama.grammar import begin, check_length
from engine.llama.json_schema import supported_schema
from engine.llama.tokenizer import LlamaTokenizer
from engine.prompt.argument_schema import arguments_of, resolved, values_of
from engine.types import CALL_ID, ArgumentFormat, ToolFormat, ToolRequest

_ANY, _SPACE = "(?s:.*)", r"[ \n]{0,4}"
_ID, _SHORT_ID = r"/[a-zA-Z0-9_.:-]{1,64}/", r"/[a-zA-Z0-9]{9}/"
_NAME = "/[a-zA-Z_][a-zA-Z0-9_.-]{0,63}/"  # of an argument that a schema does not name


def compile_tools(
    request: ToolRequest, tools: ToolFormat, sampling: SamplingParams, vocab: LlamaTokenizer
) -> SamplingParams:
    """Return the settings of an answer to a request, whose calls follow the functions' schemas.

    A JSON schema of the settings is that of an answer without calls. Raises RequestError, which names the
    function and what is not enforced.
    """
    if sampling.grammar:
        raise RequestError("a grammar and tools do not go together: use one of them, or a JSON schema")
    if sampling.json_schema is not None and request.choice == "auto" and not tools.anywhere:
        raise RequestError(
            "a JSON schema of the answer does not go together with tools for this model, whose calls are "
            "JSON as well: leave one of them out, or require a call"
        )
    writer = _Writer(request, tools, vocab)
    grammar = writer.grammar(sampling.json_schema)
    try:
        Matcher(grammar, vocab).check()
    except ValueError as error:
        raise RequestError(f"the grammar of these tools {error}") from error
    return replace(sampling, json_schema=None, tool_grammar=grammar, spelled=tuple(writer.spelled))


class _Writer:
    def __init__(self, request: ToolRequest, tools: ToolFormat, vocab: LlamaTokenizer) -> None:
        self._request, self._tools, self._vocab = request, tools, vocab
        ends = set(vocab.eog_tokens)
        texts = [tools.begin, tools.middle, tools.separator or "", tools.end]
        texts += vars(tools.argument).values() if tools.argument else ()
        texts += [tools.thought_begin, tools.thought_end]
        whole = "\n".join(texts)
        self._control = {
            spelling: token
            for spelling, token in vocab.control_tokens.items()
            if len(spelling) > 1 and spelling in whole and token not in ends
        }
        longest = sorted(self._control, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, [CALL_ID, *longest]))})")
        self._rules: list[str] = []

    @property
    def spelled(self) -> Iterator[int]:
        """The control tokens of the format."""
        yield from self._control.values()

    def grammar(self, schema: object) -> str:
        """Return the grammar; `schema` is that of an answer without calls, None for any text."""
        calls = f"{self._trigger(schema)} {self._calls()}"
        if self._request.choice == "required":
            start = f"{self._thought()} {calls}"
        elif schema is not None:
            start = f"{calls} | {self._json(schema, 'the JSON schema')}"
        elif self._tools.anywhere:
            start = f"free* ({calls})?"
        else:
            start = f"free* | {calls}"
        if self._request.choice == "auto" and schema is None:
            self._rules += [f"free: TEXT{self._other_control()}", f"TEXT: {self._text()}"]
        return "\n".join(["%llguidance {}", f"start: {start}", *self._rules, ""])

    def _thought(self) -> str:
        """Return the rule of what a model may think before a call, or must if the prompt begins a thought."""
        first, last = self._terms(self._tools.thought_begin), self._tools.thought_end
        if not last:
            return ""
        if last in self._control:
            self._rules.append(f"thought: {first} /{_ANY}/ {self._terms(last)}")
        else:
            self._rules += [f"thought: {first} thought_end", f"thought_end[lazy]: /{_ANY}/ {_quoted(last)}"]
        return "thought?" if first else "thought"

    def _trigger(self, schema: object) -> str:
        """Return the rule of a call's beginning, after any text if that is allowed."""
        trigger = self._tools.trigger
        if (token := self._control.get(trigger)) is not None:
            return f"<[{token}]>" if self._follows_text(schema) else f"/{_SPACE}/ <[{token}]>"
        if self._follows_text(schema):
            self._rules.append(f"trigger[lazy]: /{_ANY}/ {_quoted(trigger)}")
            return "trigger"
        self._rules.append(f"TRIGGER: /{_SPACE}/ {_quoted(trigger)}")
        return "TRIGGER"

    def _follows_text(self, schema: object) -> bool:
        return self._tools.anywhere and self._request.choice == "auto" and schema is None

    def _text(self) -> str:
        """Return what is free text: anything that does not begin a call."""
        trigger = self._tools.trigger
        if trigger in self._control:
            return "/(?s:.+)/"
        first = _ANY if self._tools.anywhere else _SPACE
        return f"/(?s:.+)/ & ~/{first}{_regex(trigger)}{_ANY}/"

    def _other_control(self) -> str:
        """Return the alternative of control tokens that no call is written with."""
        known = {*self._control.values(), *self._vocab.eog_tokens}
        others = sorted(token for token in self._vocab.control_tokens.values() if token not in known)
        return f" | <[{','.join(_ranges(others))}]>" if others else ""

    def _calls(self) -> str:
        """Return what follows a trigger: the rest of a call, and of others."""
        tools = self._tools
        self._rules.append(f"call: {' | '.join(self._call(f) for f in self._callable())}")
        rest, separator = self._terms(tools.begin[len(tools.trigger) :]), tools.separator
        if separator is None or not self._request.parallel:
            return f"{rest} call {self._terms(tools.end)}"
        common = self._common(separator, tools.end)
        more, end = self._terms(separator[len(common) :]), self._terms(tools.end[len(common) :])
        shared = self._terms(common)
        return f"{rest} call ({shared} {more} call)* {shared} {end}"

    def _callable(self) -> Iterator[Mapping[str, Any]]:
        only = self._request.only
        return (f for f in self._request.functions if only in ("", f["name"]))

    def _common(self, first: str, second: str) -> str:
        """Return what two texts begin with, of whole control spellings."""
        parts = zip(self._split.split(first), self._split.split(second), strict=False)
        common = ""
        for one, other in parts:
            common += common_beginning(one, other) if one != other and not self._split.match(one) else ""
            if one != other:
                break
            common += one
        return common

    def _call(self, function: Mapping[str, Any]) -> str:
        """Return the rule of a function's name and arguments."""
        name, parameters = function["name"], function.get("parameters") or {}
        number = len(self._rules)
        rule = f"call_{number}"
        self._rules.append("")
        before = self._terms(name + self._tools.middle)
        if self._tools.argument is None:
            body = self._json({"properties": {}, **parameters, "type": "object"}, _of(name))
        else:
            body = " ".join(self._arguments(name, parameters, self._tools.argument))
        self._rules[number] = f"{rule}: {before} {body}"
        return rule

    def _arguments(self, function: str, parameters: Mapping[str, Any], form: ArgumentFormat) -> Iterator[str]:
        """Yield the rules of arguments that are written one by one, in the order of the schema."""
        check_length(_of(function), json.dumps(parameters))
        try:
            known = arguments_of(parameters)
        except ValueError as error:
            raise RequestError(f"{_of(function)} {error}") from error
        for name, schema in known.properties.items():
            value = self._argument(function, name, schema, parameters, form.after)
            rule = f"argument_{len(self._rules)}"
            self._rules.append(f"{rule}: {self._terms(form.before + name + form.between)} {value}")
            yield rule if name in known.required else f"{rule}?"
        if known.others is not False:
            value = self._argument(function, "additionalProperties", known.others, parameters, form.after)
            number, declared = len(self._rules), "|".join(map(_regex, known.properties))
            others = f"{_NAME} & ~/{declared}/" if declared else _NAME
            before, between = self._terms(form.before), self._terms(form.between)
            self._rules += [
                f"NAME_{number}: {others}",
                f"argument_{number}: {before} NAME_{number} {between} {value}",
            ]
            yield f"argument_{number}*"

    def _argument(
        self, function: str, name: str, schema: Any, parameters: Mapping[str, Any], after: str
    ) -> str:
        """Return the rule of one value and what ends it."""
        place = f"the argument {name!r} of the function {function!r}"
        definitions = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
        try:
            values = values_of(schema, parameters)
            whole = resolved(schema, parameters)
            if values.may_be_text and isinstance(whole, dict):
                supported_schema(json.dumps({**whole, **definitions}))
        except ValueError as error:
            raise RequestError(f"{place} {error}") from error
        if not values.may_be_text:
            return f"{self._json({**schema, **definitions}, place)} {self._terms(after)}"
        if not values.free:
            others = (self._json({**schema, **definitions}, place) for schema in values.schemas)
            return f"({' | '.join((*map(_quoted, values.texts), *others))}) {self._terms(after)}"
        first, *rest = self._split.split(after.lstrip())
        if not first:  # a control token ends it
            return f"/{_ANY}/ {self._terms(after.lstrip())}"
        number = len(self._rules)
        self._rules.append(f"value_{number}[lazy]: /{_ANY}/ {_quoted(first)}")
        return f"value_{number} {self._terms(''.join(rest))}"

    def _json(self, schema: object, place: str) -> str:
        """Return the rule of a JSON value. Raises RequestError for a schema that is not enforced."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        check_length(place, text)
        try:
            known = supported_schema(text)
            SchemaMatcher(known, self._vocab).check()
        except ValueError as error:
            of = f" {begin(text)!r}" if isinstance(schema, str) else ""
            raise RequestError(f"{place}{of} {error}") from error
        value = json.loads(known)
        return f"%json {json.dumps({**(value if isinstance(value, dict) else {}), 'x-guidance': OPTIONS})}"

    def _terms(self, text: str) -> str:
        """Return a text of the format as terms of a rule."""
        spelled = {token: f"<[{number}]>" for token, number in self._control.items()}
        spelled[CALL_ID] = _SHORT_ID if self._tools.short_ids else _ID
        return " ".join(spelled.get(part) or _quoted(part) for part in self._split.split(text) if part)


def _of(function: str) -> str:
    return f"the schema of the parameters of the function {function!r}"


def _quoted(text: str) -> str:
    return json.dumps(text)


def _regex(text: str) -> str:
    """Return a regular expression for a text, between slashes."""
    return "".join(char if char.isalnum() else rf"\x{{{ord(char):x}}}" for char in text)


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Yield sorted numbers as ranges: 3, 5-9."""
    first = last = numbers[0]
    for number in (*numbers[1:], -1):
        if number != last + 1:
            yield f"{first}-{last}" if last > first else f"{first}"
            first = number
        last = number
