"""Tables, paragraphs and marked differences as HTML, and numbers in short form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from markupsafe import Markup

from ui.i18n.words import Translator
from ui.render.html import html, render

NOTHING = "–"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> Markup:
    """Render a table that scrolls sideways when it is too wide; screen readers read `label`."""
    return render("table", heads=heads, rows=rows, label=label)


def paragraph(text: str, css_class: str = "") -> Markup:
    """Render a paragraph of plain text."""
    return html("<p class='{{ css_class }}' dir='auto'>{{ text }}</p>", text=text, css_class=css_class)


def heading(text: str) -> Markup:
    """Render a heading of the second level."""
    return html("<h2>{{ text }}</h2>", text=text)


def short_number(value: float | None, t: Translator, digits: int = 3) -> str:
    """Format a number to `digits` significant digits, or as a whole number if it has more before the point.

    None and non-finite numbers are a dash. Very large and very small ones have an exponent.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > 6 or abs(value) >= 1e9:
        return f"{value:.{digits - 1}e}"
    return t.number(value, max(0, places))


def percent(share: float | None, t: Translator, digits: int = 1) -> str:
    """Format a share as a percentage; None and non-finite numbers are a dash."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{t.number(100 * share, digits)} %"


MAX_WORDS = 3000  # the comparison takes quadratic time; longer texts are shown unmarked
_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+")


def pieces(reference: str, text: str) -> list[tuple[str, bool]]:
    """Split `text` into (piece, differs from `reference`); joined, the pieces are the text."""
    old, new = _WORDS.findall(reference), _WORDS.findall(text)
    if max(len(old), len(new)) > MAX_WORDS or not new:
        return [(text, False)] if text else []
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new])
    parts: list[tuple[str, bool]] = []
    for tag, _, _, start, end in matcher.get_opcodes():
        if start < end:
            parts.append(("".join(new[start:end]), tag != "equal"))
    return parts


def marked(reference: str, text: str) -> Markup:
    """Render `text` with <mark> around the words that differ from `reference`."""
    return Markup().join(
        _mark(piece) if differs else Markup.escape(piece) for piece, differs in pieces(reference, text)
    )


def _mark(piece: str) -> Markup:
    """Mark a piece from its first word on: a mark that begins with white space looks wrong."""
    word = piece.lstrip()
    return html("{{ space }}<mark>{{ word }}</mark>", space=piece[: len(piece) - len(word)], word=word)
