from __future__ import annotations

import json
import re

import pytest

from engine.errors import RequestError, SettingsError
from engine.local import LocalBackend
from engine.settings import SamplingSettings
from tests.engine.helpers import ask, user

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_grammar_binds_the_answer(backend: LocalBackend, temperature: float) -> None:
    sampling = SamplingSettings(
        temperature=temperature, max_tokens=30, grammar='root ::= ("yes" | "no") " " [0-9]{3}'
    )
    text, finished = ask(backend, user("Is the sea blue?"), sampling)
    assert re.fullmatch(r"(yes|no) \d{3}", text) and finished.reason == "stop"


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
def test_a_json_schema_binds_the_answer(backend: LocalBackend, schema: str | dict[str, object]) -> None:
    sampling = SamplingSettings(temperature=0, max_tokens=100, json_schema=schema)
    text, finished = ask(backend, user("Describe a sailor as JSON."), sampling)
    assert finished.reason == "stop"
    answer = json.loads(text)
    assert set(answer) == {"name", "age"} and isinstance(answer["age"], int)


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        (SamplingSettings(grammar="root ::= ("), "not valid GBNF"),
        (SamplingSettings(grammar='other ::= "a"'), "not valid GBNF"),
        (SamplingSettings(grammar="root ::= root"), "not valid GBNF"),
        (SamplingSettings(grammar='root ::= "' + "a" * 70000 + '"'), "70011 characters"),
        (SamplingSettings(grammar='root ::= "a\0"'), "NUL"),
        (SamplingSettings(json_schema="{"), "JSON schema"),
        (SamplingSettings(json_schema="[1]"), "JSON schema"),
        (SamplingSettings(json_schema={"$ref": "https://example.com/x.json"}), "JSON schema"),
        (SamplingSettings(json_schema={"$ref": "#/nowhere"}), "JSON schema"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(
    backend: LocalBackend, sampling: SamplingSettings, word: str
) -> None:
    with pytest.raises(RequestError, match=word):
        backend.stream(user("Hi"), sampling)


def test_settings_with_a_schema_are_hashable_and_both_are_too_much() -> None:
    assert hash(SamplingSettings(json_schema=SCHEMA)) == hash(
        SamplingSettings(json_schema=json.dumps(SCHEMA))
    )
    with pytest.raises(SettingsError, match="not both"):
        SamplingSettings(grammar='root ::= "a"', json_schema="{}")
