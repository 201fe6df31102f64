"""Which arguments of a function may be texts, for models that write them without quotes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_DEPTH = 8
_BRANCHES = ("anyOf", "oneOf", "allOf")


def properties_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas of a function's arguments by name."""
    found = parameters.get("properties")
    return dict(found) if isinstance(found, dict) else {}


def resolved(schema: Any, parameters: Mapping[str, Any]) -> Any:
    """Return what a schema that is a reference into `$defs` or `definitions` refers to, or the schema."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, dict) or not isinstance(reference := schema.get("$ref"), str):
            break
        place, _, name = reference.removeprefix("#/").partition("/")
        known = parameters.get(place)
        if not isinstance(known, dict) or name not in known:
            break
        schema = known[name]
    return schema


def may_be_text(schema: Any, parameters: Mapping[str, Any], depth: int = 0) -> bool:
    """Return whether a schema, one of those in a function's `parameters`, allows texts."""
    schema = resolved(schema, parameters)
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return True
    if "const" in schema or isinstance(schema.get("enum"), list):
        return any(isinstance(value, str) for value in schema.get("enum", [schema.get("const")]))
    if (kinds := schema.get("type")) is not None:
        return "string" in (kinds if isinstance(kinds, list) else [kinds])
    for key in _BRANCHES:
        if isinstance(branches := schema.get(key), list):
            return any(may_be_text(branch, parameters, depth + 1) for branch in branches)
    return True
