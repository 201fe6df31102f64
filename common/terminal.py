"""The edge to the terminal: texts from files must not move its cursor, rename its window or fill a clipboard.

Names of files and tensors, metadata, templates and what a library says of them come from strangers. All that
our commands print goes through here, except a model's answer into a pipe.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")})


def printable(text: str) -> str:
    """Return the text without control characters except tabs and line ends, and without lone surrogates."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def say(text: str, file: TextIO | None = None) -> None:
    """Print a printable text, to standard output or `file`, at once."""
    print(printable(text), file=file or sys.stdout, flush=True)


def say_error(text: str) -> None:
    """Print an error as one line on standard error."""
    say(f"error: {' '.join(text.split())}", sys.stderr)


def terminal_console(**options: Any) -> Console:
    """Return a rich Console that drops control characters from what it prints; its own styles stay."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            """Render to segments of printable text; segments of control codes are rich's own."""
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    return PrintableConsole(**options)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def printable_logs() -> None:
    """Make what is logged without a handler of its own printable, and letters that the terminal lacks a ?."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # where LANG is C, printing them would raise an error
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())
