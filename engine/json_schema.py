"""A JSON schema as a grammar: llama-cpp-python's converter, kept within bounds.

It takes a stranger at his word: it writes repetitions out one by one, follows references as often as they
branch, and leaves backslashes as they are, so that a constant can close its own quotes and go on as GBNF.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

from llama_cpp.llama_grammar import INVALID_RULE_CHARS_RE, SchemaConverter

_MOST = 1 << 21  # characters that it may write, generously reckoned; far less is too long for a grammar
_SECONDS = 1.0  # of the thread's computing; usual are milliseconds
_FRAME = 16  # characters that are written around a name each time
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_BRACES = re.compile(r"\{([^{}]*)\}")
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError, RecursionError)


def grammar_of(schema: str) -> str:
    """GBNF for what a schema's text describes. Safe in any thread.

    Raises ValueError, whose words follow "the JSON schema".
    """
    converter = _Bounded()
    try:
        converter.visit(converter.resolve_refs(json.loads(schema), "stdin"), "")
    except _TooMuch as error:
        raise ValueError(str(error)) from error
    except _BROKEN as error:  # the converter checks little, and names no exception of its own
        raise ValueError(f"cannot be used ({type(error).__name__}: {str(error)[:200]})") from error
    return str(converter.format_grammar())


class _TooMuch(Exception):
    """A schema that asks for more than a grammar can hold."""


class _Bounded(SchemaConverter):  # type: ignore[misc] # it has no types
    """The converter, which passes each schema within the schema through `visit`."""

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._left, self._until = _MOST, time.thread_time() + _SECONDS

    def visit(self, schema: dict[str, Any], name: str) -> str:
        """Write the rules of one schema; returns the name of its own."""
        pattern = str(schema.get("pattern", ""))
        counts = [*(schema.get(key) for key in _COUNTS), *_quantifiers(pattern)]
        repeats = sum(abs(count) for count in counts if isinstance(count, int))  # from -9 to 0 are nine
        self._left -= (1 + repeats) * (len(name) + len(pattern) + _FRAME)
        if self._left < 0:
            raise _TooMuch("makes too long a grammar: use smaller counts, fewer references or shorter names")
        if time.thread_time() > self._until:
            raise _TooMuch("takes too long to read: use fewer references")
        return str(super().visit(schema, name))

    def _format_literal(self, literal: str) -> str:
        return str(super()._format_literal(literal.replace("\\", r"\\")))

    def _resolve_ref(self, ref: str) -> str:
        """A rule's name, spelled as rules are: that of a recursive one comes as the stranger wrote it."""
        return str(INVALID_RULE_CHARS_RE.sub("-", super()._resolve_ref(ref)))


def _quantifiers(pattern: str) -> Iterator[int]:
    """The numbers of a pattern's {m,n}, read as the converter reads them."""
    for inside in _BRACES.findall(pattern):
        for number in inside.split(","):
            try:
                yield int(number)
            except ValueError:
                continue  # no quantifier, or one that the converter refuses
