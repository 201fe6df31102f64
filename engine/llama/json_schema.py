"""JSON schemas as llguidance takes them: what it does not enforce is rewritten, or refused by its name.

https://json-schema.org/draft/2020-12, with `nullable` and the number formats of OpenAPI, and the patterns of
Pydantic. llguidance ignores keywords that it does not know, and refuses some that it knows.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from common.text import nesting
from engine.llama.schema_patterns import PATTERN_OF_FORMAT, TIGHTER_FORMAT, without_lookahead

Schema = dict[str, Any]

_ANNOTATIONS = frozenset(
    (
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$schema",
        "$id",
        "id",
        "$comment",
        "discriminator",
        "externalDocs",
        "xml",
    )
)
_KEPT = frozenset(
    (
        "type",
        "enum",
        "const",
        "required",
        "$ref",
        "minProperties",
        "maxProperties",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    )
)
_IN_ONE = ("items", "additionalItems", "additionalProperties")
_IN_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_IN_MAP = ("properties", "patternProperties", "$defs", "definitions")
# These values ask for nothing.
_NEUTRAL = {"uniqueItems": False, "nullable": False, "unevaluatedProperties": True, "unevaluatedItems": True}

# llguidance's; "unknown", which it takes too, is none.
_FORMATS = frozenset(
    ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
_ANY_TEXT = frozenset(("password", "binary", "path"))  # any string is one
_SAFE = 10**18 - 1  # llguidance's largest bound has 18 digits; a tighter range is within the 64 bits
_BOUNDS = {f"int{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (8, 16, 32)}
_BOUNDS |= {f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32)}
_BOUNDS |= {"int64": (-_SAFE, _SAFE), "int": (-_SAFE, _SAFE), "uint64": (0, _SAFE), "uint": (0, _SAFE)}
_ANY_NUMBER = frozenset(("float", "double"))

_MAX_MULTIPLE = 100_000  # the least common multiple, which is the number of states of llguidance's automaton
_MAX_PATTERNS = 12
_MAX_BRANCHES = 60  # of a oneOf that are compared in pairs
_MAX_DEPTH = 100
_MAX_LEVELS = 124  # of lists and objects: llguidance reads 128, with its own around them


def supported_schema(text: str) -> str:
    """Return an equal JSON schema whose keywords llguidance all enforces.

    Raises ValueError, whose message continues "the JSON schema". Safe from any thread.
    """
    try:
        root = json.loads(text)
        schema = {} if root is True else _Rewriter(root).schema(root, "#")
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if nesting(schema) > _MAX_LEVELS:
        raise ValueError(f"is nested too deeply: {_MAX_LEVELS} lists and objects in one another are the most")
    return json.dumps(schema)


class _Rewriter:
    """Rewrites the subschemas of one document; `where` is a subschema's JSON pointer."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._multiples: list[Fraction] = []
        # Small models make up properties without end. As in llama.cpp, an object that names its properties
        # has no others, unless another schema might ask for one.
        self._closes = not any(_combines(part) for part in _objects(root))
        self._combines = False  # whether an outer schema is combined with others, and so checked already

    def schema(self, schema: object, where: str, depth: int = 0) -> Any:
        """Return the rewritten subschema. Raises ValueError."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise ValueError(f"has {_begin(schema)} at {where}, which is no schema: use an object")
        if depth > _MAX_DEPTH:
            raise ValueError(f"is nested too deeply: {_MAX_DEPTH} levels are the most")
        out: Schema = {}
        given = {key: value for key, value in schema.items() if value is not None or key == "const"}
        outer, self._combines = self._combines, self._combines or _combines(given)
        for key, value in given.items():
            self._keyword(out, key, value, f"{where}/{key}", depth)
        self._combines = outer
        self._texts(out, given, where)
        self._numbers(out, given, where)
        if given.get("nullable") is True:
            out = _nullable(out)
        if (names := given.get("propertyNames")) is not None:
            self._property_names(out, names, where)
        if self._closes and _lists_all(out):
            out["additionalProperties"] = False
        if not self._combines and _combines(out):
            self._check_patterns(out, where)
        if "oneOf" in out and self._exclude_each_other(given["oneOf"]):
            out.setdefault("allOf", []).append({"anyOf": out.pop("oneOf")})
        return out

    def _keyword(self, out: Schema, key: str, value: object, where: str, depth: int) -> None:
        if key in _KEPT:
            out[key] = self._reference(value, where) if key == "$ref" else value
        elif key == "items" and isinstance(value, list):  # before the draft of 2020
            out[key] = self._list(value, where, depth)
        elif key in _IN_ONE:
            out[key] = self.schema(value, where, depth + 1)
        elif key in _IN_LIST:
            out[key] = self._list(value, where, depth)
        elif key in _IN_MAP:
            out[key] = self._map(value, where, depth)
        elif key not in ("pattern", "format", "multipleOf", "nullable", "propertyNames"):
            _refuse_unless(key in _ANNOTATIONS or key.startswith("x-") or _is_neutral(key, value), key, where)

    def _list(self, value: object, where: str, depth: int) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError(f"has {_begin(value)} at {where}: use a list of schemas")
        return [self.schema(part, f"{where}/{n}", depth + 1) for n, part in enumerate(value)]

    def _map(self, value: object, where: str, depth: int) -> Schema:
        if not isinstance(value, dict):
            raise ValueError(f"has {_begin(value)} at {where}: use an object of schemas")
        return {name: self.schema(part, f"{where}/{name}", depth + 1) for name, part in value.items()}

    def _texts(self, out: Schema, given: Schema, where: str) -> None:
        """Add what `pattern` and `format` ask of a string."""
        patterns: list[str] = []
        if (pattern := given.get("pattern")) is not None:
            if not isinstance(pattern, str):
                raise ValueError(f"has {_begin(pattern)} at {where}/pattern: use a text")
            patterns += without_lookahead(pattern)
        name = given.get("format")
        if isinstance(name, str) and name in PATTERN_OF_FORMAT:
            patterns.append(PATTERN_OF_FORMAT[name])
        elif name in _FORMATS:
            out["format"] = name
            patterns += [TIGHTER_FORMAT[name]] if name in TIGHTER_FORMAT else []
        elif isinstance(name, str) and name in _BOUNDS:
            low, high = _BOUNDS[name]
            out.setdefault("allOf", []).append({"minimum": low, "maximum": high})
        elif name is not None and name not in _ANY_TEXT | _ANY_NUMBER:
            raise ValueError(
                f"has the format {_begin(name)} at {where}, which is not enforced here: leave it out"
            )
        for first, pattern in enumerate(patterns):
            if first == 0:
                out["pattern"] = pattern
            else:
                out.setdefault("allOf", []).append({"pattern": pattern})

    def _numbers(self, out: Schema, given: Schema, where: str) -> None:
        """Add `multipleOf`. All of a document may meet at one number, so their multiple is bounded."""
        value = given.get("multipleOf")
        if value is None:
            return
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"has {_begin(value)} at {where}/multipleOf: use a number above 0")
        self._multiples.append(Fraction(repr(value)))
        unit = math.lcm(*(number.denominator for number in self._multiples))
        if math.lcm(*(int(number * unit) for number in self._multiples)) > _MAX_MULTIPLE:
            raise ValueError(f"has {value!r} at {where}/multipleOf: use rounder or smaller numbers")
        out["multipleOf"] = value

    def _reference(self, value: object, where: str) -> str:
        """Return a reference into the document, which must not lead back to itself."""
        here = self._root.get("$id") if isinstance(self._root, dict) else None
        text = value if isinstance(value, str) else ""
        text = text.removeprefix(here.partition("#")[0]) if isinstance(here, str) else text
        if text != "#" and not text.startswith("#/"):
            raise ValueError(f"has {_begin(value)} at {where}: use a reference into the schema, #/$defs/NAME")
        seen: set[str] = set()
        todo = [text]
        while todo:
            if (reference := todo.pop()) in seen:
                continue
            seen.add(reference)
            todo += _same_place(_at(self._root, reference, where))
            if text in todo:
                raise ValueError(f"has {text!r} at {where}, which leads back to itself with nothing between")
        return text

    def _check_patterns(self, schema: Schema, where: str) -> None:
        """Limit the patterns that may meet at one string: llguidance's time doubles with each."""
        found: set[str] = set()
        seen: set[str] = set()
        todo: list[object] = [schema]
        while todo:
            part = todo.pop()
            if isinstance(part, dict):
                if isinstance(pattern := part.get("pattern"), str):
                    found.update(without_lookahead(pattern))
                if isinstance(reference := part.get("$ref"), str) and reference not in seen:
                    seen.add(reference)
                    todo.append(_at(self._root, reference, where))
                todo += part.values()
            elif isinstance(part, list):
                todo += part
        if len(found) > _MAX_PATTERNS:
            raise ValueError(
                f"combines {len(found)} patterns at {where}: {_MAX_PATTERNS} are the most in allOf, or "
                "beside $ref, anyOf and oneOf"
            )

    def _property_names(self, out: Schema, names: object, where: str) -> None:
        """Say `propertyNames` by properties or patternProperties, where the object has no others."""
        found, rest = self._resolved(names), out.get("additionalProperties", True)
        asked = {key: found[key] for key in found.keys() - _ANNOTATIONS} if isinstance(found, dict) else {}
        if found is True or (isinstance(found, dict) and asked in ({}, {"type": "string"})):
            return
        others = {"properties", "patternProperties"} & out.keys()
        if not others and asked.keys() <= {"type", "enum"} and isinstance(asked.get("enum"), list):
            known = [name for name in asked["enum"] if isinstance(name, str)]
            out |= {"properties": dict.fromkeys(known, rest), "additionalProperties": False}
        elif not others and asked.keys() <= {"type", "pattern"} and isinstance(asked.get("pattern"), str):
            out |= {"patternProperties": {asked["pattern"]: rest}, "additionalProperties": False}
        else:
            _refuse_unless(False, "propertyNames", f"{where}/propertyNames")

    def _exclude_each_other(self, branches: list[object]) -> bool:
        """Return whether no value can match two of the schemas; then oneOf is anyOf."""
        known = [_values(self._resolved(branch)) for branch in branches]
        if None not in known:
            every = [value for values in known for value in values or ()]
            return len(every) == len({*every})
        pairs = itertools.combinations(branches, 2) if len(branches) <= _MAX_BRANCHES else ((True, True),)
        return all(self._differ(first, second, 0) for first, second in pairs)

    def _differ(self, first: object, second: object, depth: int) -> bool:
        """Return whether two schemas surely have no value in common."""
        first, second = self._resolved(first), self._resolved(second)
        if not isinstance(first, dict) or not isinstance(second, dict) or depth > 3:
            return False
        values = _values(first), _values(second)
        if values[0] is not None and values[1] is not None:
            return not {*values[0]} & {*values[1]}
        kinds = _kinds(first), _kinds(second)
        if kinds[0] is None or kinds[1] is None or kinds[0] & kinds[1] != {"object"}:
            return kinds[0] is not None and kinds[1] is not None and not kinds[0] & kinds[1]
        mine, others = _properties(first), _properties(second)
        return any(
            self._differ(mine.get(name, True), others.get(name, True), depth + 1)
            for name in {*_required(first)} & {*_required(second)}
        ) or any(
            name not in properties and closed
            for asking, other, properties in ((first, second, others), (second, first, mine))
            for closed in [other.get("additionalProperties") is False and "patternProperties" not in other]
            for name in _required(asking)
        )

    def _resolved(self, schema: object) -> object:
        """Return what a schema that is only a reference refers to, or the schema itself."""
        for _ in range(_MAX_DEPTH):
            if not (
                isinstance(schema, dict) and "$ref" in schema and schema.keys() - _ANNOTATIONS == {"$ref"}
            ):
                break
            schema = _at(self._root, schema["$ref"], "$ref")
        return schema


def _combines(schema: Schema) -> bool:
    """Return whether several schemas meet at one value."""
    others = schema.keys() - _ANNOTATIONS - {"$defs", "definitions"}
    return "allOf" in others or (len(others) > 1 and bool(others & {"$ref", "anyOf", "oneOf"}))


def _objects(document: object) -> Iterator[Schema]:
    """Yield every object of a document."""
    todo = [document]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            yield part
        todo += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def _lists_all(schema: Schema) -> bool:
    """Return whether the object's properties suffice for what it requires, and nothing is said of others."""
    names, least = schema.get("properties"), schema.get("minProperties", 0)
    if not isinstance(names, dict) or {"additionalProperties", "patternProperties"} & schema.keys():
        return False
    return isinstance(least, int) and least <= len(names) > 0 and names.keys() >= {*_required(schema)}


def _refuse_unless(known: bool, key: str, where: str) -> None:
    if not known:
        raise ValueError(f"has the keyword {key!r} at {where}, which is not enforced here: leave it out")


def _is_neutral(key: str, value: object) -> bool:
    return key in _NEUTRAL and value is _NEUTRAL[key]


def _begin(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _at(root: object, reference: str, where: str) -> object:
    """Return the part of a document that a JSON pointer names. Raises ValueError."""
    found = root
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]  # type: ignore[index]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"has {reference!r} at {where}, which is not in the schema") from None
    return found


def _same_place(schema: object) -> Iterator[str]:
    """Yield the references that a schema makes about the very same value."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for key in ("anyOf", "oneOf", "allOf"):
            for part in schema[key] if isinstance(schema.get(key), list) else ():
                yield from _same_place(part)


def _nullable(schema: Schema) -> Schema:
    """Return OpenAPI's `nullable: true`: the schema, or null."""
    if "type" not in schema or "const" in schema or "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    out = {**schema, "type": [*kinds, *({"null"} - {*kinds})]}
    if isinstance(values := schema.get("enum"), list) and None not in values:
        out["enum"] = [*values, None]
    return out


def _values(schema: object) -> list[str] | None:
    """Return the only values that a schema allows, in one spelling each; None if there may be others."""
    if not isinstance(schema, dict) or schema.get("nullable") is True:
        return None
    known = [schema["const"]] if "const" in schema else schema.get("enum")
    return [*map(_canonical, known)] if isinstance(known, list) else None


def _canonical(value: object) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, sort_keys=True)  # type: ignore[call-overload]


def _kinds(schema: Schema) -> set[str] | None:
    """Return the types that a schema allows, None for any; an integer is a number."""
    if (kinds := schema.get("type")) is None:
        return None
    names = {*map(str, kinds if isinstance(kinds, list) else [kinds])}
    names |= {"null"} if schema.get("nullable") is True else set()
    return {"number" if name == "integer" else name for name in names}


def _properties(schema: Schema) -> Schema:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _required(schema: Schema) -> list[str]:
    found = schema.get("required")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
