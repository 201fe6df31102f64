"""JSON schemas: each keyword is enforced, or refused by its name, within bounds of time."""

from __future__ import annotations

import gc
import json
import random
import time
import weakref
from collections.abc import Iterator
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema
import numpy as np
import pytest
from llguidance import TokenizerWrapper
from pydantic import BaseModel, Field, TypeAdapter, conlist, constr

from bench.tiny_gguf import write_model
from engine.config import SamplingParams
from engine.errors import RequestError, TooSlow
from engine.llama.constraint import SchemaMatcher, compile_constraint
from engine.llama.grammar import whole_vocabulary
from engine.llama.model import Model
from engine.probe.cpu_backend import load_cpu_backend

END = 256


class Bytes:
    """A vocabulary of single bytes and an end token, as LlamaTokenizer describes one."""

    size = END + 1
    eog_tokens = (END,)

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def continue_text(self, text: str, *, special: bool) -> list[int]:
        assert not special
        return list(text.encode())


BYTES: Any = Bytes()


def matcher(schema: object) -> SchemaMatcher:
    compiled = compile_constraint(SamplingParams(json_schema=json.dumps(schema)), BYTES)
    return SchemaMatcher(str(compiled.json_schema), BYTES)


def allows(schema: object, text: str) -> bool:
    state = matcher(schema)
    return all(map(state.accept, text.encode())) and state.accept(END)


def random_answer(schema: object, seed: int) -> str | None:
    """Return a random text that the schema allows, None when it does not come to its end."""
    state, draw = matcher(schema), random.Random(seed)
    text = bytearray()
    for _ in range(600):
        state.apply_mask(data := whole_vocabulary(np.zeros(END + 1, np.float32)))
        allowed = np.flatnonzero(data["logit"] == 0).tolist()
        if END in allowed and (len(allowed) == 1 or draw.random() < 0.5):
            return text.decode()
        likely = [token for token in allowed if token in b'"]}0123456789ab-.,']
        token = draw.choice(likely if likely and draw.random() < 0.9 else [t for t in allowed if t != END])
        assert state.accept(token)
        text.append(token)
    return None


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Node(BaseModel):
    value: int
    next: Node | None = None
    children: list[Node] = []


class Order(BaseModel):
    id: UUID
    colour: Colour
    code: constr(pattern=r"^[A-Z]{3}-\d{2,4}$")  # type: ignore[valid-type]
    at: datetime
    day: date | None
    sizes: conlist(int, min_length=1, max_length=3)  # type: ignore[valid-type]
    pair: tuple[int, str]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    count: dict[Colour, int]
    size: Annotated[float, Field(gt=0.5, lt=2)]
    step: Annotated[int, Field(multiple_of=5)]


@pytest.mark.parametrize("model", [Order, Node, Cat | Dog | None, list[Order]])
def test_what_a_model_of_pydantic_asks_is_what_it_gets(model: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    drawn = [random_answer(adapter.json_schema(), seed) for seed in range(6)]
    answers = [answer for answer in drawn if answer is not None]
    for answer in answers:
        adapter.validate_json(answer)
    assert answers


def in_object(schema: object, name: str = "a") -> object:
    return {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}


LIST = {"$defs": {"n": {"type": ["array", "null"], "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
AT = '"2024-02-29T23:59:59Z"'
EITHER = {"oneOf": [in_object({}), in_object({}, "b")]}
DECIMAL = r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)"  # Pydantic 2.12's


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 5}, ["1", "5"], ["0", "6", "1983", "-1"]),
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 10}, ["1", "10"], ["0", "11", "-700"]),
        ({"minimum": 3, "exclusiveMinimum": True, "type": "integer"}, ["4"], ["3"]),  # draft 4
        ({"type": "number", "minimum": 0.5, "exclusiveMaximum": 1.25}, ["0.5", "1.1"], ["0.4", "1.25"]),
        ({"type": "integer", "multipleOf": 7, "minimum": 10}, ["14", "21"], ["7", "15"]),
        ({"type": "number", "multipleOf": 0.05}, ["0.15", "2"], ["0.12"]),
        ({"type": "integer", "format": "uint8"}, ["0", "255"], ["-1", "256"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"日本語"'], ['"a"', '"abcd"']),
        ({"type": "string", "pattern": r"^\d{3}$"}, ['"123"'], ['"12"', '"1234"', '"a123"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"']),  # it may match anywhere
        ({"type": "string", "pattern": DECIMAL}, ['"123.45"', '"0.5"'], ['"-"', '"1234"', '"x"', '""']),
        ({"type": "string", "pattern": r"^(?=.*\d)(?=.*[A-Z])\w{3,4}$"}, ['"aB1"'], ['"aaa1"', '"B1"']),
        ({"type": "string", "pattern": r"^(?![ab]*$)[abc]+$"}, ['"abc"'], ['"ab"']),
        ({"type": "string", "format": "date"}, ['"2024-12-31"'], ['"2024-13-01"', '"today"']),
        (
            {"format": "date-time", "type": "string"},
            [AT, AT.replace("Z", "+01:00")],
            [AT.lower(), AT.replace("9Z", "60Z")],
        ),
        ({"type": "string", "format": "uuid4"}, ['"394b0116-a479-49fa-a582-b1ba0b0c6bb1"'], ['"394b0116"']),
        ({"type": "string", "format": "email"}, ['"a@b.org"'], ['"a"']),
        ({"type": "string", "format": "base64"}, ['"QUI="'], ['"Q?=="', '"QUI"']),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}, ["[1, 2]"], ["[1]"]),
        (
            {"prefixItems": [{"const": 1}, {"type": "null"}], "items": False, "minItems": 2, "type": "array"},
            ["[1,null]"],
            ["[1]", "[2,null]", "[1,null,1]"],
        ),
        ({"type": "array", "items": [{"const": 1}], "additionalItems": False}, ["[1]"], ["[2]", "[1,1]"]),
        ({"enum": ["a", 1, None, {"x": 2}]}, ['"a"', "1", "null", '{"x": 2}'], ['"b"', "2", "{}"]),
        ({"const": 'a" | ("b" \\ # '}, [r'"a\" | (\"b\" \\ # "'], ['"a"']),
        ({"type": "string", "nullable": True, "enum": ["a"]}, ['"a"', "null"], ['"b"']),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["3", "null"], ['"3"']),
        ({"oneOf": [{"const": 1, "title": "one"}, {"enum": [2, "b"]}]}, ["1", "2", '"b"'], ["3"]),
        ({"oneOf": [{"type": "integer"}, {"type": ["null", "string"]}]}, ["1", "null"], ["true"]),
        (EITHER, ['{"a":1}', '{"b":1}'], ["{}", '{"a":1,"b":1}']),
        ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 4}]}, ["3", "4"], ["2", "5"]),
        ({"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n", "minimum": 3}, ["3"], ["2"]),
        # An object that names its properties has no others, unless another schema or a count asks for them.
        ({"type": "object", "properties": {"a": {}}}, ['{"a":1}', "{}"], ['{"a":1,"b":2}']),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["a"], "minProperties": 2},
            ['{"a":1,"b":2}'],
            ['{"a":1}'],
        ),
        (
            {"$defs": {"a": {"type": "object", "properties": {"a": {}}, "required": ["a"]}}}
            | {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {}}, "required": ["b"]}]},
            ['{"a":1,"b":2}'],
            ['{"a":1}', '{"b":2}'],
        ),
        (LIST, ["null", "[]", "[[null],[]]"], ["[1]", "3"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"x":1}'], ['{"x":"1"}']),
        ({"type": "object", "patternProperties": {"^a": {"const": 1}}}, ['{"ab":1}'], ['{"ab":2}']),
        ({"type": "object", "minProperties": 1, "maxProperties": 1}, ['{"x":1}'], ["{}", '{"x":1,"y":1}']),
        ({"type": "object", "propertyNames": {"enum": ["x"]}}, ['{"x":1}', "{}"], ['{"y":1}']),
        ({"type": "object", "propertyNames": {"pattern": "^x+$"}}, ['{"xx":1}'], ['{"y":1}']),
        (
            in_object({"type": "boolean"}),
            ['{"a":true}', '{\n  "a": false\n}'],
            ["{}", '{"a":1}', '{"b":true}'],
        ),
        (
            {
                "$id": "https://example.org/s",
                "$ref": "https://example.org/s#/$defs/a",
                "$defs": {"a": {"const": 1}},
            },
            ["1"],
            ["2"],
        ),
    ],
)
def test_a_keyword_is_enforced(schema: object, right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not allows(schema, text)] == []
    assert [text for text in wrong if allows(schema, text)] == []


@pytest.mark.parametrize("seed", range(3))
def test_annotations_and_what_asks_nothing_are_no_constraints(seed: int) -> None:
    notes = {
        **{
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "x",
            "$comment": "x",
            "title": "x",
        },
        **{"description": "x", "default": 1, "examples": [1], "deprecated": True, "readOnly": True},
        **{"uniqueItems": False, "pattern": None, "enum": None, "nullable": False, "x-order": 3},
    }
    schema = in_object({**notes, "type": "array", "items": {"type": "integer"}, "format": None})
    answer = random_answer(schema, seed)
    jsonschema.validate(json.loads(answer or ""), {"properties": {"a": {"items": {"type": "integer"}}}})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {"type": "null"}}, "'not' at #/not"),
        ({"if": {"const": 1}, "then": {"const": 1}}, "'if'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "array", "contains": {"const": 1}}, "'contains'"),
        ({"dependentRequired": {"a": ["b"]}}, "'dependentRequired'"),
        ({"unevaluatedProperties": False}, "'unevaluatedProperties'"),
        ({"propertyNames": {"minLength": 3}}, "'propertyNames'"),
        ({"$dynamicRef": "#x"}, r"'\$dynamicRef'"),
        ({"$anchor": "x"}, r"'\$anchor'"),
        ({"contentEncoding": "base64"}, "'contentEncoding'"),
        ({"properties": {"a": {"minimun": 3}}}, "'minimun' at #/properties/a/minimun"),
        ({"type": "string", "format": "regex"}, '"regex"'),
        ({"type": "string", "format": "unknown"}, '"unknown"'),  # a name that llguidance lets pass
        ({"format": 3}, "format 3"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf: more than one"),
        ({"pattern": r"\bword\b", "type": "string"}, "pattern"),
        ({"pattern": "a(?=b)", "type": "string"}, "pattern: look-around"),
        ({"pattern": ["a"]}, "at #/pattern"),
        ({"multipleOf": 0}, "#/multipleOf"),
        ({"type": "integer", "multipleOf": 9999991}, "9999991 at #/multipleOf"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "9967 at #/allOf/1/multipleOf"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, r"minimum \(5\) is greater than maximum \(3\)"),
        ({"type": "string", "minLength": -3}, "minLength"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "leads back to itself"),
        ({"$ref": "#/nowhere"}, "not in the schema"),
        ({"$ref": "other.json"}, "use a reference into the schema"),
        (False, "allows no value"),
        ([1], r"\[1\] at #"),
        ({"items": 3}, "3 at #/items"),
        ({"anyOf": {}}, "#/anyOf"),
        ({"properties": []}, "#/properties"),
    ],
)
def test_what_is_not_enforced_is_refused_by_its_name(schema: object, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        matcher(schema)


def deep(levels: int) -> object:
    schema: object = {"type": "integer"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_a_schema_may_have_many_levels() -> None:
    value: object = 1
    for _ in range(123):
        value = [value]
    assert all(map(matcher({"const": value}).accept, json.dumps(value).encode()))
    for text in (json.dumps({"const": [value]}), json.dumps(deep(300)), "[" * 60_000):
        with pytest.raises(RequestError, match="is nested too deeply"):
            compile_constraint(SamplingParams(json_schema=text), BYTES)


def hostile() -> Iterator[tuple[str, object]]:
    text = {"type": "string"}
    yield "nested repetition", {**text, "pattern": "^((a?){0,30}){0,30}$"}
    yield "a million", {**text, "pattern": "^(a{1000}){1000}$"}
    yield "a billion", {**text, "pattern": "^a{1000000000}$"}
    yield "an automaton", {**text, "pattern": "^(.*a.{30}b.*){20}$"}
    yield "twelve patterns", {**text, "allOf": [{"pattern": f"^.*a.{{{n}}}b.*$"} for n in range(12)]}
    yield "many patterns", {**text, "allOf": [{"pattern": f"^.*a.{{{n}}}b.*$"} for n in range(24)]}
    yield "many lookaheads", {**text, "pattern": "^" + "".join(f"(?=.*a.{{{n}}}b)" for n in range(24)) + "c$"}
    parts = {
        f"d{n}": {"pattern": f"^.*a.{{{n}}}b", "allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(24)
    }
    yield "patterns by references", {"$defs": {**parts, "d24": {}}, "$ref": "#/$defs/d0"}
    yield "long", {**text, "minLength": 10**6, "maxLength": 10**9}
    yield "many items", {"items": {"const": 1}, "minItems": 10**6, "type": "array"}
    twice = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    yield "branching", {"$defs": {**twice, "d40": {"const": 1}}, "properties": {"a": {"$ref": "#/$defs/d0"}}}
    ring = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{(n + 1) % 40}"}] * 2} for n in range(40)}
    yield "a ring", {"$defs": ring, "$ref": "#/$defs/d0"}
    objects = [
        [{"required": [f"p{n}{m}"], "properties": {f"p{n}{m}": {}}} for m in range(8)] for n in range(8)
    ]
    yield "a product", {"allOf": [{"anyOf": part} for part in objects]}
    yield "deep", deep(90)
    yield "too deep", deep(300)
    yield "a large multiple", {"type": "integer", "multipleOf": 9999991}
    yield "wide", {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(1500)}}


@pytest.mark.parametrize(("name", "schema"), [pytest.param(*case, id=case[0]) for case in hostile()])
def test_a_hostile_schema_is_refused_or_bounded(name: str, schema: object) -> None:
    began = time.process_time()
    try:
        state = matcher(schema)
        for byte in b'"[{aab,':
            state.apply_mask(whole_vocabulary(np.zeros(END + 1, np.float32)))
            state.accept(byte)
    except (RequestError, TooSlow):
        pass
    assert time.process_time() - began < 2, name


def test_the_tokens_for_llguidance_go_with_their_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[object]] = []

    class Wrapper(TokenizerWrapper):
        def __init__(self, tokens: object) -> None:
            super().__init__(tokens)
            made.extend((weakref.ref(self), weakref.ref(tokens)))

    monkeypatch.setattr("engine.llama.constraint.TokenizerWrapper", Wrapper)
    vocab: Any = type(BYTES)()
    state = SchemaMatcher('{"const": "Bob"}', vocab)
    made.append(weakref.ref(vocab))
    del vocab
    gc.collect()
    assert all(map(state.accept, b'"Bob"')) and [one() is None for one in made] == [False] * 3
    del state
    gc.collect()
    assert [one() is None for one in made] == [True] * 3


def test_a_mask_without_any_token_ends_the_answer() -> None:
    """Only half an answer can exist: `finish_reason` must not say that it is whole."""
    state = SchemaMatcher(
        '{"type":"object","properties":{"a":{"$ref":"#/properties/a"}},"required":["a"]}', BYTES
    )
    assert all(map(state.accept, b'{"a":'))
    with pytest.raises(TooSlow):
        state.apply_mask(whole_vocabulary(np.zeros(END + 1, np.float32)))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])  # the others lack letters here
def test_each_kind_of_vocabulary_spells_its_answer(kind: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", kind)
    load_cpu_backend(path)
    model = Model(path, vocab_only=True)
    schema = {"const": {"name": "Bob", "n": [1, 23]}}
    sampling = compile_constraint(SamplingParams(json_schema=schema), model.vocab)
    state, text = SchemaMatcher(str(sampling.json_schema), model.vocab), b""
    for token in model.vocab.continue_text('{"name": "Bob", "n": [1, 23]}', special=False):
        state.apply_mask(data := whole_vocabulary(np.zeros(model.vocab.size, np.float32)))
        assert np.isfinite(data["logit"]).sum() < model.vocab.size / 2
        assert state.accept(token)
        text += model.vocab.piece(token)
    assert json.loads(text) == {"name": "Bob", "n": [1, 23]}
    assert [state.accept(token) for token in model.vocab.eog_tokens] == [True] * len(model.vocab.eog_tokens)
    model.close()
