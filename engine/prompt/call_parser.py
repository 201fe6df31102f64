"""Takes the calls of functions out of an answer, as it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

from engine.prompt.argument_schema import Arguments, ArgumentValues, arguments_of, values_of
from engine.types import CALL_ID, ArgumentFormat, ToolFormat


@dataclass(frozen=True)
class CallBegun:
    """A call of the function `name` begins; `index` counts the answer's calls from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class ArgumentsDelta:
    """The next piece of a call's arguments, as JSON."""

    index: int
    delta: str


Piece = str | CallBegun | ArgumentsDelta
"""A text is what the assistant says beside its calls."""

_ID = re.compile(r"[a-zA-Z0-9_.:-]*")
_More = Literal[-1]
_MORE: _More = -1  # the text may match when more of it has come


def _match(literal: str, text: str, start: int = 0) -> int | None:
    """Return where a literal of a format ends in a text; _MORE if the text is too short to tell, or None."""
    for number, part in enumerate(literal.split(CALL_ID)):
        if number:
            found = _ID.match(text, start)
            assert found is not None
            if found.end() == len(text):
                return _MORE
            start = found.end()
        if not text.startswith(part, start):
            return _MORE if part.startswith(text[start:]) else None
        start += len(part)
    return start


class _State(Enum):
    TEXT = auto()
    ARGUMENTS = auto()
    AFTER = auto()  # the arguments of a call
    DONE = auto()


class CallParser:
    """Parses one answer. Text is held back while it may begin a call; what is no call stays text."""

    def __init__(self, tools: ToolFormat, functions: Sequence[Mapping[str, Any]]) -> None:
        self._tools = tools
        self._parameters = {f["name"]: f.get("parameters") or {} for f in functions}
        self._held, self._state, self._index = "", _State.TEXT, -1
        self._said = False  # whether a text was released
        self._arguments: _Object | _Written

    @property
    def count(self) -> int:
        """How many calls have begun."""
        return self._index + 1

    def push(self, delta: str) -> list[Piece]:
        """Add a piece of the answer; return what is now certain."""
        self._held += delta
        pieces: list[Piece] = []
        steps = {_State.TEXT: self._text, _State.ARGUMENTS: self._argument, _State.AFTER: self._after}
        while self._held and (step := steps.get(self._state)) and step(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """Return the text that is still held back, at the end of the answer."""
        held, self._held = self._held, ""
        return [held] if self._state is _State.TEXT and held else []

    def _text(self, pieces: list[Piece]) -> bool:
        """Release text up to a call's beginning and the white space before it; return whether it began."""
        place, found = self._find()
        if text := self._held[:place].rstrip():
            pieces.append(text)
            self._held, self._said = self._held[len(text) :], True
        return found and self._begin(self._tools.begin, place - len(text), pieces)

    def _find(self) -> tuple[int, bool]:
        """Return where a call begins or may begin, and whether it surely does; else the end of the text."""
        held, tools = self._held, self._tools
        if not tools.anywhere:
            at = len(held) - len(held.lstrip())
            known = self._name(tools.begin, at) if not self._said else None
            return (at, known != _MORE) if known is not None else (len(held), False)
        for at in _places(held, tools.trigger):
            known = self._name(tools.begin, at)
            if known is not None:
                return at, known != _MORE
        return len(held), False

    def _name(self, before: str, at: int) -> tuple[str, int] | _More | None:
        """Return the name that follows `before` in the held text, and where its arguments begin."""
        start = _match(before, self._held, at)
        if start is None or start == _MORE:
            return start
        ends = {name: _match(name + self._tools.middle, self._held, start) for name in self._parameters}
        if _MORE in ends.values():  # one name may begin another one
            return _MORE
        matching = [(len(name), name, end) for name, end in ends.items() if end is not None]
        return max(matching)[1:] if matching else None

    def _begin(self, before: str, at: int, pieces: list[Piece]) -> bool:
        known = self._name(before, at)
        assert isinstance(known, tuple)
        name, end = known
        self._held, self._state, self._index = self._held[end:], _State.ARGUMENTS, self._index + 1
        pieces.append(CallBegun(self._index, name))
        form = self._tools.argument
        self._arguments = _Object() if form is None else _Written(form, self._parameters[name])
        return True

    def _argument(self, pieces: list[Piece]) -> bool:
        text, used, done = self._arguments.read(self._held)
        self._held = self._held[used:]
        if text:
            pieces.append(ArgumentsDelta(self._index, text))
        if done:
            self._state = _State.AFTER
        return done

    def _after(self, pieces: list[Piece]) -> bool:
        """Begin another call after the separator, or end the calls."""
        if self._tools.separator is not None:
            known = self._name(self._tools.separator, 0)
            if known == _MORE:
                return False
            if known is not None:
                return self._begin(self._tools.separator, 0, pieces)
        self._state = _State.DONE
        return False


def _places(text: str, trigger: str) -> list[int]:
    """Return where a trigger is in a text, and where the text ends with the beginning of one."""
    found = [match.start() for match in re.finditer(re.escape(trigger), text)]
    for length in range(min(len(text), len(trigger) - 1), 0, -1):
        if text.endswith(trigger[:length]):
            return [*found, len(text) - length]
    return found


class _Object:
    """Arguments that are a JSON object, passed on as it is written."""

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped = 0, False, False

    def read(self, text: str) -> tuple[str, int, bool]:
        """Return what is of the object, its length in the text, and whether the object ended."""
        for place, char in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._quoted = True
            else:
                self._depth += (char in "{[") - (char in "}]")
            if self._depth == 0:
                return text[: place + 1], place + 1, True
        return text, len(text), False


class _Written:
    """Arguments that are written one by one."""

    def __init__(self, form: ArgumentFormat, parameters: Mapping[str, Any]) -> None:
        self._form, self._parameters, self._count = form, parameters, 0
        try:
            self._arguments = arguments_of(parameters)
        except ValueError:  # such a request is refused
            self._arguments = Arguments({}, frozenset(), True)

    def read(self, text: str) -> tuple[str, int, bool]:
        """Return whole arguments as pieces of a JSON object, their length in the text, and its end."""
        out, used = "", 0
        while (known := self._one(text, used)) is not None:
            if known == _MORE:
                return out, used, False
            name, value, used = known
            out += f"{', ' if self._count else '{'}{json.dumps(name)}: {value}"
            self._count += 1
        return out + ("}" if self._count else "{}"), used, True

    def _one(self, text: str, start: int) -> tuple[str, str, int] | _More | None:
        """Return the name and value (as JSON) of the argument that begins here, and where it ends."""
        form = self._form
        begun = _match(form.before, text, start)
        if begun is None or begun == _MORE:
            return begun
        after = form.after.lstrip()  # an empty value may lack the space before it
        equals = text.find(form.between, begun)
        start = equals + len(form.between)
        end = text.find(after, start) if equals >= 0 else -1
        if end < 0:
            return _MORE
        name, value = text[begun:equals], text[start:end].removesuffix(form.after.removesuffix(after))
        return name, self._value(name, value), end + len(after)

    def _value(self, name: str, text: str) -> str:
        """Return a value as JSON."""
        try:
            known = values_of(self._arguments.schema(name), self._parameters)
        except ValueError:
            known = ArgumentValues(free=True)
        return known.read(text)
