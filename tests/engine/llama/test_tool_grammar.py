"""Answers with calls of functions: what the grammar allows, and what the parser takes out of it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from engine.config import SamplingParams
from engine.errors import RequestError
from engine.llama.constraint import Matcher
from engine.llama.grammar import whole_vocabulary
from engine.llama.tool_grammar import compile_tools
from engine.prompt.call_parser import ArgumentsDelta, CallBegun, CallParser, Piece
from engine.types import Message, ToolFormat, ToolRequest
from tests.engine.prompt.test_tools import FORMATS

END = 256
CONTROL = {"[TOOL_CALLS]": 257, "<|plain|>": 258, "<｜tool▁calls▁begin｜>": 259, "<｜tool▁sep｜>": 260}
USER: Message = {"role": "user", "content": "Go."}
ADD: dict[str, Any] = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"$ref": "#/$defs/number"}},
        "required": ["a", "b"],
        "$defs": {"number": {"type": "integer"}},
    },
}
SAY: dict[str, Any] = {
    "name": "say",
    "description": "Says a text.",
    "parameters": {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "tone": {"enum": ["soft", "loud"]},
            "times": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["text"],
    },
}
NOW: dict[str, Any] = {"name": "now"}


class Bytes:
    """A vocabulary of single bytes, an end token and control tokens."""

    size = END + 5
    eog_tokens = (END,)
    control_tokens = CONTROL

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def continue_text(self, text: str, *, special: bool) -> list[int]:
        return list(text.encode())


BYTES: Any = Bytes()


def form(name: str) -> ToolFormat:
    return cast(ToolFormat, FORMATS[name])


def request(choice: Any = "auto", parallel: bool = True, only: str = "") -> ToolRequest:
    return ToolRequest([USER], [ADD, SAY, NOW], choice, parallel, only)


def tokens(text: str) -> list[int]:
    ids: list[int] = []
    while text:
        spelling = next((s for s in CONTROL if text.startswith(s)), "")
        ids += [CONTROL[spelling]] if spelling else list(text[0].encode())
        text = text[len(spelling) or 1 :]
    return ids


def allows(asked: ToolRequest, tools: ToolFormat, text: str, **settings: Any) -> bool:
    made = compile_tools(asked, tools, SamplingParams(**settings), BYTES)
    state = Matcher(made.tool_grammar, BYTES)
    return all(map(state.accept, tokens(text))) and state.accept(END)


def written(name: str, *made: tuple[str, dict[str, Any]]) -> str:
    """Return calls as a model of this format writes them."""
    tools = form(name)
    texts = []
    for function, arguments in made:
        if tools.argument is None:
            given = json.dumps(arguments)
        else:
            plain = {k: v if isinstance(v, str) else json.dumps(v) for k, v in arguments.items()}
            a = tools.argument
            given = "".join(f"{a.before}{k}{a.between}{v}{a.after}" for k, v in plain.items())
        texts.append(function + tools.middle + given)
    whole = tools.begin + (tools.separator or "??").join(texts) + tools.end
    return whole.replace("\0", "a1B2c3D4e" if tools.short_ids else "call_1")


def parse(tools: ToolFormat, text: str, size: int) -> tuple[str, list[tuple[str, Any]], int]:
    """Return the text, the calls and the number of pieces, for an answer that comes in parts of a size."""
    parser, pieces = CallParser(tools, [ADD, SAY, NOW]), list[Piece]()
    for start in range(0, len(text), size):
        pieces += parser.push(text[start : start + size])
    pieces += parser.finish()
    said = "".join(p for p in pieces if isinstance(p, str))
    made = [p for p in pieces if isinstance(p, CallBegun)]
    given = [
        "".join(p.delta for p in pieces if isinstance(p, ArgumentsDelta) and p.index == n) for n in range(9)
    ]
    assert [p.index for p in made] == list(range(parser.count))
    return said, [(p.name, json.loads(given[p.index])) for p in made], len(pieces)


FORMS = [name for name, known in FORMATS.items() if known is not None]
ONE = ("say", {"text": 'He said "</tool_call>" {[', "tone": "loud", "times": 3})
TWO = ("add", {"a": 1, "b": -20})


@pytest.mark.parametrize("name", FORMS)
def test_calls_are_allowed_and_parsed_in_every_format(name: str) -> None:
    tools, several = form(name), form(name).separator is not None
    made = [ONE, TWO, ("now", {})] if several else [ONE]
    text = written(name, *made)
    thought = f"{tools.thought_begin}hm{tools.thought_end}\n\n" if tools.thought_end else ""
    assert allows(request("required"), tools, thought + text)
    assert allows(request(), tools, text)
    assert not allows(request("required"), tools, "No.") and allows(request(), tools, "No. {}")
    assert allows(request(), tools, f"I look.\n{text}") or not tools.anywhere
    assert allows(request("required", parallel=False), tools, thought + written(name, ONE))
    if several:
        assert not allows(request("required", parallel=False), tools, thought + text)
    for said in ("", "I look.\n\n") if tools.anywhere else ("", "\n"):
        for size in (1, 2, 7, 1000):
            assert parse(tools, said + text, size)[:2] == (said.strip(), made)


@pytest.mark.parametrize("name", FORMS)
def test_arguments_follow_their_schema(name: str) -> None:
    tools = form(name)
    thought = f"{tools.thought_begin}{tools.thought_end}" if tools.thought_end else ""
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("add", {"a": 100, "b": 1}),
        ("add", {"a": 1, "b": "x"}),
        ("add", {"a": 1}),
        ("say", {"text": "x", "tone": "shrill"}),
        ("say", {"text": "x", "times": 1.5}),
        ("sing", {"text": "x"}),
    ]
    for one in wrong:
        text = written(name, one)
        assert not allows(request("required"), tools, thought + text), one
        assert not allows(request(), tools, text), one
    assert allows(request("required", only="now"), tools, thought + written(name, ("now", {})))
    assert not allows(request("required", only="now"), tools, thought + written(name, TWO))


@pytest.mark.parametrize("name", FORMS)
def test_random_answers_parse_and_validate(name: str) -> None:
    tools, draw = form(name), random.Random(7)
    made = compile_tools(ToolRequest([USER], [ADD, NOW], "required"), tools, SamplingParams(), BYTES)
    spelled = {token: spelling for spelling, token in CONTROL.items() if token in made.spelled}
    ended = 0
    for _ in range(4):
        state, text = Matcher(made.tool_grammar, BYTES), b""
        for _ in range(600):
            data = whole_vocabulary(np.zeros(BYTES.size, np.float32))
            state.apply_mask(data)
            allowed = np.flatnonzero(data["logit"] == 0)
            token = END if END in allowed else int(draw.choice(allowed))
            assert state.accept(token)
            if token == END:
                said, calls, _ = parse(tools, text.decode(), 5)
                assert calls and all(name in ("add", "now") for name, _ in calls), text
                assert all({*given} == {"a", "b"} and given["a"] <= 99 for n, given in calls if n == "add")
                assert tools.thought_begin or tools.thought_end in said
                ended += 1
                break
            text += spelled[token].encode() if token in spelled else bytes([token])
    assert ended or tools.thought_end  # a random thought has no end


def test_what_is_no_call_stays_text() -> None:
    hermes, llama = form("QWEN_2_5"), form("LLAMA_3_1")
    for size in (1, 3, 1000):
        for text in (
            "<tool_call> is a tag",
            "a < b\n",
            "<tool_cal",
            "  \n",
            ' {"name": "nobody", "parameters": {}}',
        ):
            for tools in (hermes, llama):
                assert parse(tools, text, size)[:2] == (text, [])
        text = f"As JSON: {written('LLAMA_3_1', TWO)}"
        assert parse(llama, text, size)[:2] == (text, [])
    said, calls, _ = parse(hermes, "<tool_call>x</tool_call> " + written("QWEN_2_5", TWO), 2)
    assert (said, calls) == ("<tool_call>x</tool_call>", [TWO])


def test_text_comes_at_once_and_arguments_in_pieces() -> None:
    parser = CallParser(form("QWEN_2_5"), [SAY])
    assert parser.push("Wait") == ["Wait"] and parser.push(" a <") == [" a"]
    assert parser.push("b") == [" <b"] and parser.push("\n<tool_call>\n{") == []
    assert parser.push('"name": "say", "arguments": {"te') == [CallBegun(0, "say"), ArgumentsDelta(0, '{"te')]
    assert parser.push('xt": "hi"}') == [ArgumentsDelta(0, 'xt": "hi"}')] and parser.push("}\n</tool_") == []
    assert parser.finish() == []


def test_a_schema_of_the_answer_goes_with_calls() -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    for name in ("QWEN_2_5", "MISTRAL_V3", "COMMAND_R_TOOL_USE"):
        tools = form(name)
        assert allows(request(), tools, '{"sum": 3}', json_schema=schema)
        assert allows(request(), tools, written(name, TWO), json_schema=schema)
        assert not allows(request(), tools, "The sum is 3.", json_schema=schema)
    with pytest.raises(RequestError, match="for this model, whose calls are JSON"):
        allows(request(), form("LLAMA_3_1"), "{}", json_schema=schema)
    assert allows(request("required"), form("LLAMA_3_1"), written("LLAMA_3_1", TWO), json_schema=schema)
    with pytest.raises(RequestError, match="a grammar and tools do not go together"):
        compile_tools(request(), form("QWEN_2_5"), SamplingParams(grammar='root ::= "x"'), BYTES)


def test_only_control_tokens_of_the_format_are_spelled_out() -> None:
    for name, spelled in (("MISTRAL_V3", (257,)), ("QWEN_2_5", ()), ("DEEPSEEK_V3", (259, 260))):
        assert compile_tools(request(), form(name), SamplingParams(), BYTES).spelled == spelled
    assert allows(request(), form("QWEN_2_5"), "a<|plain|>b") and allows(
        request(), form("MISTRAL_V3"), "a<|plain|>"
    )


@pytest.mark.parametrize(
    ("schema", "name", "fault"),
    [
        ({"contains": 1}, "QWEN_2_5", "the parameters of the function 'f'.* 'contains'"),
        (
            {"type": "string", "pattern": "^a$"},
            "QWEN_3_CODER",
            "the argument 'x' of the function 'f'.*'pattern'",
        ),
        ({"type": "array", "contains": {}}, "GLM_4_5", "the argument 'x' of the function 'f'.*'contains'"),
    ],
)
def test_what_is_not_enforced_is_named_with_its_function(schema: Any, name: str, fault: str) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}}
    with pytest.raises(RequestError, match=fault):
        compile_tools(ToolRequest([USER], [function]), form(name), SamplingParams(), BYTES)


DEFS = {"unit": {"enum": ["C", "F"]}, "arguments": {"properties": {"x": {"type": "integer"}}}}


def one_call(name: str, parameters: dict[str, Any], **given: str) -> tuple[bool, Any]:
    """Return whether arguments as they are written are allowed, and what the parser reads."""
    functions, a = [{"name": "f", "parameters": {"$defs": DEFS, **parameters}}], form(name).argument
    assert a is not None
    body = "".join(f"{a.before}{k}{a.between}{v}{a.after}" for k, v in given.items())
    text = form(name).begin + "f" + form(name).middle + body + form(name).end
    pieces = CallParser(form(name), functions).push(text)
    read = json.loads("".join(p.delta for p in pieces if isinstance(p, ArgumentsDelta)))
    return allows(ToolRequest([USER], functions, "required"), form(name), text), read


UNQUOTED = [name for name in FORMS if form(name).argument and not form(name).thought_end]


@pytest.mark.parametrize(
    ("schema", "allowed", "refused"),
    [
        ({"anyOf": [{"enum": ["C", "F"]}, {"type": "null"}]}, {"C": "C", "null": None}, ["KELVIN", "3"]),
        ({"allOf": [{"$ref": "#/$defs/unit"}], "default": "C"}, {"F": "F"}, ["K", "null"]),
        ({"$ref": "#/$defs/unit", "nullable": True}, {"F": "F", "null": None}, ["K"]),
        ({"allOf": [{"$ref": "#/$defs/unit"}, {"enum": ["F", "K"]}]}, {"F": "F"}, ["C", "K"]),
        ({"type": "string", "enum": ["ab", "abc", 1], "minLength": 3}, {"abc": "abc"}, ["ab", "1"]),
        ({"oneOf": [{"const": "a"}, {"type": "integer", "maximum": 9}]}, {"a": "a", "7": 7}, ["c", "10"]),
        ({"enum": ["a", 3, None]}, {"a": "a", "3": 3, "null": None}, ["4", "b"]),
        ({"anyOf": [{"enum": ["a"]}, {"type": "array", "items": {"const": 1}}]}, {"[1]": [1]}, ["[2]"]),
        ({"type": ["string", "null"]}, {"null": None, "nullx": "nullx", "5": "5"}, []),
        ({"anyOf": [{"type": "string", "minLength": 0}, {"type": "null"}]}, {"null": None, "": ""}, []),
        ({"type": "string"}, {"null": "null"}, []),
        ({"enum": ["null", None]}, {"null": "null"}, ["nil"]),
        ({"oneOf": [{"type": "object", "required": ["a"], "properties": {"a": {"const": n}}} for n in "12"]},
         {'{"a": "1"}': {"a": "1"}}, ['{"a": "3"}', "x"]),
    ],
)  # fmt: skip
def test_branches_of_arguments_without_quotes(
    schema: Any, allowed: dict[str, Any], refused: list[str]
) -> None:
    for name in UNQUOTED:
        parameters = {"properties": {"x": schema}, "required": ["x"]}
        for text, value in allowed.items():
            assert one_call(name, parameters, x=text) == (True, {"x": value})
        for text in refused:
            assert not one_call(name, parameters, x=text)[0], text


def test_arguments_of_functions_without_quotes() -> None:
    text = {"x": {"type": "string"}}
    for name in UNQUOTED:
        for parameters in (
            {"additionalProperties": {"type": "integer"}},
            {"additionalProperties": {"type": "integer"}, "properties": text},
        ):
            assert one_call(name, parameters, a="1", b_2="22") == (True, {"a": 1, "b_2": 22})
            assert one_call(name, parameters)[0] and not one_call(name, parameters, a="u")[0]
        assert one_call(name, {"properties": text, "additionalProperties": True}, x="1", y="v")[0]
        assert not one_call(
            name, {"properties": {"x": {"type": "integer"}}, "additionalProperties": True}, x="v"
        )[0]
        assert not one_call(name, {"properties": text}, y="v")[0]
        needs = {"properties": text, "required": ["y"], "minProperties": 1}
        assert one_call(name, needs, x="1", y="2") == (True, {"x": "1", "y": "2"})
        assert not one_call(name, needs, x="1")[0]
        for referred in ({"$ref": "#/$defs/arguments"}, {"allOf": [{"$ref": "#/$defs/arguments"}]}):
            assert one_call(name, {**referred, "required": ["x"]}, x="1") == (True, {"x": 1})
            assert not one_call(name, {**referred, "required": ["x"]}, x="v")[0]
            assert not one_call(name, {**referred, "required": ["x"]})[0]


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"anyOf": [{"required": ["x"]}]}, "of the function 'f' has the keyword 'anyOf'"),
        ({"not": {"required": ["x"]}}, "'not'"),
        ({"minProperties": 1}, "'minProperties'"),
        ({"maxProperties": 1}, "'maxProperties'"),
        ({"dependentRequired": {"x": ["y"]}}, "'dependentRequired'"),
        ({"patternProperties": {"^x": {}}}, "'patternProperties'"),
        ({"required": ["z"], "additionalProperties": False}, "requires 'z'"),
        ({"allOf": [{"properties": {"y": {}}}], "additionalProperties": False}, "'additionalProperties'"),
        ({"allOf": [{"if": {}}]}, "'if'"),
        ({"$ref": "#/$defs/nowhere"}, "'#/\\$defs/nowhere', which is not in the schema"),
        ({"required": "x"}, "has 'x' as required: use a list"),
        ({"properties": {"x": {"anyOf": [{"maxLength": 2}, {"type": "null"}]}}}, "'x' of the .* 'maxLength'"),
        ({"properties": {"x": {"allOf": [{"type": "string"}, {"format": "uuid"}]}}}, "'format'"),
        ({"properties": {"x": {"type": "string", "not": {"const": "a"}}}}, "'x' of the function 'f' .*'not'"),
        ({"properties": {"x": {"oneOf": [{"type": "string"}, {"const": "a"}]}}}, "'oneOf'.*use anyOf"),
        ({"properties": {"x": {"allOf": [{"const": "a"}, {"const": "b"}]}}}, "allows no value"),
        ({"properties": {"x": {"enum": "ab"}}}, "has 'ab' as enum: use a list"),
        ({"properties": {"x": {"type": "str"}}}, "the type 'str'"),
        ({"properties": {"x": {"$ref": "#/properties/x"}}}, "'#/properties/x'"),
        (
            {"properties": {"x": {"allOf": [{"anyOf": [{f"{n}{m}": 1} for m in "abcdefg"]} for n in "abc"]}}},
            "branches",
        ),
    ],
)  # fmt: skip
def test_what_functions_without_quotes_do_not_enforce_is_named(parameters: Any, fault: str) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}, **parameters}}
    for name in UNQUOTED:
        with pytest.raises(RequestError, match=fault):
            compile_tools(ToolRequest([USER], [function]), form(name), SamplingParams(), BYTES)


def test_many_large_functions_are_no_problem() -> None:
    many = [replace_name(SAY, f"f{n}") for n in range(128)]
    made = compile_tools(ToolRequest([USER], many), form("QWEN_2_5"), SamplingParams(), BYTES)
    state = Matcher(made.tool_grammar, BYTES)
    text = written("QWEN_2_5", ONE).replace('"say"', '"f127"')
    assert all(map(state.accept, tokens(text))) and state.accept(END)


def replace_name(function: dict[str, Any], name: str) -> dict[str, Any]:
    return {**function, "name": name}


def test_short_names_and_prefixes_are_told_apart() -> None:
    tools = replace(form("QWEN_3_CODER"))
    functions = [{"name": name} for name in ("f", "fo", "foo")]
    parser = CallParser(tools, functions)
    pieces = [p for char in written("QWEN_3_CODER", ("fo", {})) for p in parser.push(char)]
    assert pieces == [CallBegun(0, "fo"), ArgumentsDelta(0, "{}")]
