"""What a function's arguments may be, for models that write each on its own and texts without quotes.

Schemas are taken apart into alternatives without $ref, allOf, anyOf and oneOf.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import unquote

_MAX_ALTERNATIVES = 300
_MAX_REFERENCES = 8
_MAX_BRANCHES = 60  # of a oneOf that are compared in pairs
_KINDS = ("array", "boolean", "integer", "null", "number", "object", "string")
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly")
)
_NO_CONSTRAINTS = _ANNOTATIONS | {"$schema", "$id", "id", "$comment", "$defs", "definitions", "nullable"}
_OF_TEXTS = ("pattern", "format", "minLength", "maxLength")


@dataclass
class ArgumentValues:
    """The values of an argument: any text if `free`, else one of the `texts` or of what the `schemas` allow.

    The schemas allow no texts, and lack `$defs`. `null` tells whether null is allowed.
    """

    free: bool = False
    texts: list[str] = field(default_factory=list)
    schemas: list[dict[str, Any]] = field(default_factory=list)
    null: bool = False

    @property
    def may_be_text(self) -> bool:
        """Whether some text is allowed."""
        return self.free or bool(self.texts)

    def read(self, text: str) -> str:
        """Return the JSON of a value as it was written."""
        if text not in self.texts and (not self.free or (self.null and text.strip() == "null")):
            try:
                json.loads(text)
                return text.strip()
            except (ValueError, RecursionError):
                pass
        return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True)
class Arguments:
    """A function's arguments: schemas by name, those that are required, and the schema of any others."""

    properties: Mapping[str, Any]
    required: frozenset[str]
    others: Any

    def schema(self, name: str) -> Any:
        """Return an argument's schema; for a name that is not allowed, one of any value."""
        return self.properties.get(name, self.others or True)


def arguments_of(parameters: Mapping[str, Any]) -> Arguments:
    """Return the arguments of a function. Raises ValueError, which names what cannot be written."""
    parts = [*_objects(parameters, parameters, set())]
    properties: dict[str, Any] = {}
    for part in parts:
        for name, schema in part.get("properties", {}).items():
            properties[name] = {"allOf": [properties[name], schema]} if name in properties else schema
    asked_for = (_typed("required", part.get("required", []), list) for part in parts)
    required = [_typed("required", name, str) for names in asked_for for name in names]
    for part in parts:
        open_to_others = part.get("additionalProperties", True) in (True, {})
        if not open_to_others and properties.keys() - part.get("properties", {}).keys():
            raise ValueError(_refusal("additionalProperties"))
        if _typed("minProperties", part.get("minProperties", 0), int) > len({*required}):
            raise ValueError(_refusal("minProperties"))
    asked = [part["additionalProperties"] for part in parts if "additionalProperties" in part]
    others = False if not asked or False in asked else {"allOf": asked} if len(asked) > 1 else asked[0]
    for name in required:
        if name not in properties and asked and others is False:
            raise ValueError(f"requires {name!r}, which is not among its properties: add it there")
        properties.setdefault(name, others if asked else True)
    return Arguments(properties, frozenset(required), others)


_OF_FUNCTIONS = {"type", "properties", "required", "additionalProperties", "minProperties"}


def _objects(schema: Any, root: Mapping[str, Any], seen: set[str]) -> Iterator[Mapping[str, Any]]:
    """Yield a function's schema and those that it refers to, without $ref and allOf."""
    own = {key: value for key, value in _typed("allOf", schema, dict).items() if not _is_annotation(key)}
    own = {key: value for key, value in own.items() if value is not None}
    for part in _typed("allOf", own.pop("allOf", []), list):
        yield from _objects(part, root, seen)
    if (reference := own.pop("$ref", None)) is not None and str(reference) not in seen:
        seen.add(str(reference))
        yield from _objects(_referred(root, reference), root, seen)
    if unknown := own.keys() - _OF_FUNCTIONS:
        raise ValueError(_refusal(min(unknown)))
    _typed("properties", own.get("properties", {}), dict)
    yield own


def _refusal(keyword: str) -> str:
    return (
        f"has the keyword {keyword!r}, which is not enforced with this model, as it writes arguments one by "
        "one: leave it out"
    )


def values_of(schema: Any, parameters: Mapping[str, Any]) -> ArgumentValues:
    """Return the values that a schema, one of those in a function's `parameters`, allows.

    Raises ValueError, which names the keyword that is not enforced.
    """
    reader = _Reader(parameters)
    found, refused = ArgumentValues(), ""
    for one in reader.alternatives(schema):
        kinds = frozenset(_KINDS) if one.kinds is None else one.kinds
        others: dict[str, Any] | None = None
        if one.values is None:
            bound = one.first_of(_OF_TEXTS)
            found.null |= "null" in kinds
            if kinds - {"string"}:
                others = {"type": _types(kinds - {"string"})}
            if "string" in kinds:
                refused = refused or bound
                found.free |= not bound
        else:
            allowed = [value for text in one.values if _kind(value := json.loads(text)) in kinds]
            found.null |= None in allowed
            texts = [value for value in allowed if isinstance(value, str)]
            refused = refused or (one.first_of(_OF_TEXTS[:2]) if texts else "")
            found.texts += [text for text in texts if text not in found.texts and one.has_room(len(text))]
            if len(texts) < len(allowed):
                others = {"enum": [value for value in allowed if not isinstance(value, str)]}
        if others is not None:
            found.schemas.append(others | _joined(one.rest))
    if found.may_be_text and ("string" in reader.overlaps or (reader.overlaps and not found.free)):
        raise ValueError("has the keyword 'oneOf', of which more than one might match: use anyOf")
    if refused and not found.free:
        raise ValueError(
            f"has the keyword {refused!r}, which is not enforced with this model, as it writes texts without "
            "quotes: leave it out"
        )
    if not found.may_be_text and not found.schemas:
        raise ValueError("allows no value at all")
    return found


@dataclass(frozen=True)
class _Alternative:
    """A value of one of these kinds (types), one of these values (as JSON), and what other keywords ask."""

    kinds: frozenset[str] | None = None
    values: tuple[str, ...] | None = None
    rest: tuple[Mapping[str, Any], ...] = ()

    def __and__(self, other: _Alternative) -> _Alternative:
        kinds, values = self.kinds, self.values
        if other.kinds is not None:
            kinds = other.kinds if kinds is None else kinds & other.kinds
        if other.values is not None:
            values = other.values if values is None else tuple(v for v in values if v in other.values)
        new = tuple(part for part in other.rest if part not in self.rest)
        return _Alternative(kinds, values, self.rest + new)

    @property
    def possible(self) -> bool:
        """Whether anything may be left of it."""
        return self.kinds != frozenset() and self.values != ()

    def common(self, other: _Alternative) -> frozenset[str]:
        """Return the kinds of values that may be of both."""
        both = self & other
        kinds = frozenset(_KINDS) if both.kinds is None else both.kinds
        return kinds if both.values is None else kinds & {_kind(json.loads(value)) for value in both.values}

    def first_of(self, keywords: Sequence[str]) -> str:
        """Return the first of the keywords that asks for something, "" if none does."""
        keys = {key for part in self.rest for key, value in part.items() if (key, value) != ("minLength", 0)}
        return next((key for key in keywords if key in keys), "")

    def has_room(self, length: int) -> bool:
        """Return whether a text may be so long."""
        least = (_typed("minLength", part.get("minLength", 0), int) for part in self.rest)
        most = (_typed("maxLength", part.get("maxLength", length), int) for part in self.rest)
        return max((0, *least)) <= length <= min((length, *most))


class _Reader:
    """Takes schemas of one function apart. Raises ValueError for what is no schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[str, list[_Alternative] | None] = {}  # by reference; None while it is read
        self.overlaps: frozenset[str] = frozenset()  # kinds of values that may match two of a oneOf

    def alternatives(self, schema: Any) -> list[_Alternative]:
        """Return alternatives of which a value matches one."""
        if isinstance(schema, bool):
            return [_Alternative()] if schema else []
        found, rest = [_Alternative()], {}
        for key, value in _typed("a schema", schema, dict).items():
            if (value is None and key != "const") or _is_annotation(key):
                continue
            for part in self._parts(key, value):
                found = _both(found, part)
            if key not in _READ:
                rest[key] = value
        if rest:
            found = _both(found, [_Alternative(rest=(rest,))])
        if schema.get("nullable") is True:
            found.append(_Alternative(frozenset(("null",))))
        return found

    def _parts(self, key: str, value: Any) -> Iterator[list[_Alternative]]:
        """Yield the alternatives of each part that a keyword combines with the others."""
        if key == "const":
            yield [_Alternative(values=(_canonical(value),))]
        elif key == "enum":
            yield [_Alternative(values=tuple(map(_canonical, _typed(key, value, list))))]
        elif key == "type":
            yield [_Alternative(_expanded(value))]
        elif key == "$ref":
            yield self._reference(value)
        elif key == "allOf":
            yield from map(self.alternatives, _typed(key, value, list))
        elif key in ("anyOf", "oneOf"):
            branches = [self.alternatives(part) for part in _typed(key, value, list)]
            if key == "oneOf":
                self._compare(branches)
            yield _merged(itertools.chain(*branches))

    def _reference(self, reference: Any) -> list[_Alternative]:
        if not isinstance(reference, str) or (reference in self._known and self._known[reference] is None):
            raise ValueError(f"has the reference {reference!r}, which leads back to itself")
        if (known := self._known.get(reference)) is None:
            self._known[reference] = None
            self._known[reference] = known = self.alternatives(_referred(self._root, reference))
        return known

    def _compare(self, branches: Sequence[Sequence[_Alternative]]) -> None:
        """Find out of what kinds a value may be that matches more than one."""
        every = [value for branch in branches for one in branch for value in one.values or (None,)]
        if None not in every and len(every) == len({*every}):
            return
        pairs = itertools.combinations(branches if len(branches) <= _MAX_BRANCHES else [_ANY, _ANY], 2)
        for first, second in pairs:
            common = frozenset().union(*(a.common(b) for a, b in itertools.product(first, second)))
            self.overlaps |= common


_READ = frozenset(("const", "enum", "type", "$ref", "allOf", "anyOf", "oneOf"))
_ANY = (_Alternative(),)


def _both(first: Sequence[_Alternative], second: Sequence[_Alternative]) -> list[_Alternative]:
    """Return alternatives of the values that match one of each."""
    return _merged(one & other for one, other in itertools.product(first, second))


def _merged(alternatives: Iterable[_Alternative]) -> list[_Alternative]:
    """Return the alternatives that are possible, with the values of equal ones in one."""
    found: dict[str, _Alternative] = {}
    for one in alternatives:
        if not one.possible:
            continue
        key = repr((one.kinds and sorted(one.kinds), one.values is None, one.rest))
        if (before := found.get(key)) is not None and before.values is not None:
            values = tuple(dict.fromkeys((*before.values, *(one.values or ()))))
            found[key] = replace(before, values=values)
        else:
            found[key] = one
        if len(found) > _MAX_ALTERNATIVES:
            raise ValueError(f"has too many branches: {_MAX_ALTERNATIVES} are the most")
    return [*found.values()]


def resolved(schema: Any, parameters: Mapping[str, Any]) -> Any:
    """Return what a schema that is only a reference refers to, or the schema. Raises ValueError."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, dict) or {key for key in schema if not _is_annotation(key)} != {"$ref"}:
            break
        schema = _referred(parameters, schema["$ref"])
    return schema


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    keys = [key for part in parts for key in part]
    if len(keys) > len(set(keys)):
        return {"allOf": [*parts]}
    return {key: value for part in parts for key, value in part.items()}


T = TypeVar("T")


def _typed(key: str, value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list", int: "a number", str: "names"}
        raise ValueError(f"has {str(value)[:60]!r} as {key}: use {names[kind]}")
    return value


def _referred(root: Mapping[str, Any], reference: object) -> Any:
    """Return what a JSON pointer refers to."""
    if not isinstance(reference, str) or reference.partition("/")[0] != "#":
        raise ValueError(f"has the reference {reference!r}, which leads nowhere: use #/$defs/NAME")
    found: Any = root
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (LookupError, TypeError, ValueError):
            raise ValueError(f"has the reference {reference!r}, which is not in the schema") from None
    return found


def _is_annotation(key: str) -> bool:
    return key in _NO_CONSTRAINTS or key.startswith("x-")


def _expanded(kinds: Any) -> frozenset[str]:
    """Return the types, of which an integer is a number."""
    names = {*map(str, kinds if isinstance(kinds, list) else [kinds])}
    if unknown := names - {*_KINDS}:
        raise ValueError(f"has the type {min(unknown)!r}: use {', '.join(_KINDS)}")
    return frozenset(names | ({"integer"} if "number" in names else set()))


def _types(kinds: frozenset[str]) -> list[str]:
    return sorted(kinds - ({"integer"} if "number" in kinds else set()))


def _kind(value: object) -> str:
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    kinds = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _canonical(value: object) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, sort_keys=True)  # type: ignore[call-overload]
