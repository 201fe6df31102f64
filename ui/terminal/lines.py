"""Reads what a user types: one line, or several."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.styles import Style

QUOTES = '"""'


def read_message(read_line: Callable[[bool], str]) -> str:
    r"""Read a message. A line that ends with `\` goes on in the next; `\"\"\"` begins and ends a block.

    `read_line(more)` reads a line; `more` says that the message has begun. Raises what it raises.
    """
    line = read_line(False)
    if line.strip().startswith(QUOTES):
        return _block(line.strip().removeprefix(QUOTES), read_line)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(read_line(True))
    return "\n".join(lines)


def _block(first: str, read_line: Callable[[bool], str]) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(read_line(True))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


def line_editor(prompt: str) -> Callable[[bool], str]:
    """Return a line editor that keeps its history only in memory, since questions are private."""
    session: PromptSession[str] = PromptSession()
    shown = HTML("<ansigreen><b>{}</b></ansigreen>")
    return lambda more: session.prompt(shown.format("… ".rjust(len(prompt)) if more else prompt))


def editor_after_text(color: bool) -> Callable[[str], str]:
    """Return a reader of messages that follow a text, whose last line it gets and shows again.

    In a terminal it is a line editor, in green if `color`. Lines of a pipe are echoed.
    """
    if not sys.stdin.isatty():
        return lambda last: read_message(lambda more: _piped_line())
    session: PromptSession[str] = PromptSession(style=Style.from_dict({"": "ansigreen"} if color else {}))

    def read(last: str) -> str:
        sys.stdout.write("\r")  # the editor draws the line from its beginning
        sys.stdout.flush()
        return read_message(lambda more: session.prompt("" if more else [("ansidefault", last)]))

    return read


def _piped_line() -> str:
    """Read a line of a pipe and print it. Raises EOFError."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    print(f" {line.rstrip()}", flush=True)
    return line.rstrip("\r\n")
