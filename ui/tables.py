"""Tables of plain text and numbers as HTML, all escaped; and numbers of any size, short."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from ui.texts import Words

NOTHING = "–"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """A table that scrolls sideways where it is too wide; `label` is for who cannot see it."""
    head = "".join(f"<th scope='col'>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(_cell(text) for text in row)}</tr>" for row in rows)
    inner = f"<table class='figures'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide' role='region' tabindex='0' aria-label='{escape(label)}'>{inner}</div>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p class='{kind}' dir='auto'>{escape(text)}</p>"


def short_number(value: float | None, say: Words, digits: int = 3) -> str:
    """A number to so many digits that count; a dash for none, or one that is not finite."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return say.number(value, places) if places <= 6 else f"{value:.{digits - 1}e}"


def percent(share: float | None, say: Words, digits: int = 1) -> str:
    """A share as a percentage; a dash for none, or one that is not finite."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{say.number(100 * share, digits)} %"


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"
