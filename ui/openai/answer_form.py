"""The form of an answer that a request asks for: the ways of OpenAI, llama-server, vLLM, TGI and Ollama."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class AnswerForm:
    """What an answer must match: a GBNF grammar, a JSON schema (or its text), or nothing."""

    grammar: str = ""
    json_schema: Any = None


_FREE = AnswerForm()
_OBJECT = AnswerForm(json_schema={"type": "object"})
_NAMES = {"name", "strict", "description"}


def answer_form(fields: Fields) -> AnswerForm:
    """Return the form that a request's fields ask for. Raises ValueError, which names the field."""
    asked = {name: read(name, fields[name]) for name, read in _READERS.items() if name in fields}
    asked = {name: form for name, form in asked.items() if form != _FREE}
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)}: ask for the form of the answer in one way")
    return next(iter(asked.values()), _FREE)


def _response_format(name: str, value: object) -> AnswerForm:
    fields = _object(name, value)
    kind = fields.get("type")
    _refuse_others(name, fields, {"type", "json_schema", "schema", "value", "grammar", *_NAMES})
    given = [key for key in ("json_schema", "schema", "value") if key in fields]
    if kind == "grammar":
        return _grammar(f"{name}.grammar", fields.get("grammar", ""))
    if kind not in ("text", "json_object", "json_schema", "json"):
        raise ValueError(f"{name}.type: {kind!r} is not served here: use text, json_object or json_schema")
    if "grammar" in fields or len(given) > 1 or (kind == "text" and given):
        raise ValueError(f"{name}: {', '.join(fields)} do not go together")
    if given:
        return _schema(f"{name}.{given[0]}", fields[given[0]])
    if kind == "json_schema":
        raise ValueError(f"{name}: the type json_schema needs json_schema.schema")
    return _FREE if kind == "text" else _OBJECT


def _schema(name: str, value: object) -> AnswerForm:
    """Read a schema, its text, or OpenAI's wrapper of one."""
    if isinstance(value, str):
        return AnswerForm(json_schema=value) if value else _FREE
    if isinstance(value, bool):
        return AnswerForm(json_schema="true" if value else "false")
    fields = _object(name, value)
    if "schema" in fields:
        _refuse_others(name, fields, {"schema", *_NAMES})
        return _schema(f"{name}.schema", fields["schema"])
    if fields.keys() <= _NAMES and fields:
        raise ValueError(f"{name}.schema is missing: send the JSON schema there")
    return AnswerForm(json_schema=value)  # with its nulls, as one may be a constant


def _grammar(name: str, value: object) -> AnswerForm:
    if not isinstance(value, str):
        raise ValueError(f"{name}: send a GBNF grammar as text")
    return AnswerForm(grammar=value)


def _choice(name: str, value: object) -> AnswerForm:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValueError(f"{name}: send a list of texts")
    return AnswerForm(grammar="root ::= " + " | ".join(map(_literal, value))) if value else _FREE


def _literal(text: str) -> str:
    """Return a text as a literal of GBNF."""
    plain = text.replace("\\", r"\\").replace('"', r"\"")
    return '"' + "".join(char if char >= " " else f"\\x{ord(char):02X}" for char in plain) + '"'


def _structured_outputs(name: str, value: object) -> AnswerForm:
    fields = {key: part for key, part in _object(name, value).items() if part not in (None, False)}
    _refuse_others(name, fields, {"json", "json_object", "choice", "grammar"})
    readers = {"json": _schema, "choice": _choice, "grammar": _grammar, "json_object": lambda *_: _OBJECT}
    if len(fields) > 1:
        raise ValueError(f"{name}: {', '.join(fields)} do not go together")
    return next((readers[key](f"{name}.{key}", part) for key, part in fields.items()), _FREE)


def _ollama(name: str, value: object) -> AnswerForm:
    return _OBJECT if value == "json" else _schema(name, value)


def _text(name: str, value: object) -> AnswerForm:
    """Read `text.format` of OpenAI's /v1/responses."""
    fields = _object(name, value)
    _refuse_others(name, fields, {"format"})
    return _response_format(f"{name}.format", fields["format"]) if fields.get("format") else _FREE


_READERS: Mapping[str, Callable[[str, Any], AnswerForm]] = {
    "response_format": _response_format,
    "json_schema": _schema,
    "grammar": _grammar,
    "guided_json": _schema,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "structured_outputs": _structured_outputs,
    "format": _ollama,
    "text": _text,
}
FORM_FIELDS = frozenset(_READERS)


def _object(name: str, value: object) -> Fields:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: send an object")
    return {key: part for key, part in value.items() if part is not None}


def _refuse_others(name: str, fields: Fields, known: set[str]) -> None:
    if others := fields.keys() - known:
        raise ValueError(f"{name}.{min(others)} is not served here: leave it out")
