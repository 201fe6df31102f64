"""A conversation's title: one short line, out of its first question or of what a person typed."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 60


def title_of(text: str) -> str:
    """The text in one line of at most 60 characters, cut at a word; "" when there is nothing to read."""
    text = text[: 20 * LONGEST].replace("__i18n__", "i18n")  # to Gradio, the mark of a text to translate
    line = " ".join("".join(map(_printable, text)).split())
    if len(line) <= LONGEST:
        return line
    words = re.match(rf"(.{{{LONGEST // 2},{LONGEST - 1}}})(?=\s)", line)
    return (words.group(1) if words else line[: LONGEST - 1]).rstrip(" ,;:.") + "…"


def _printable(character: str) -> str:
    """Control characters and halves of surrogate pairs become spaces."""
    return " " if unicodedata.category(character) in ("Cc", "Cs") else character
