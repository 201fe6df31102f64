"""Tables of plain text and numbers as HTML, all escaped; and numbers of any size, short."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from html import escape

from ui.i18n.words import Translator

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


def short_number(value: float | None, t: Translator, digits: int = 3) -> str:
    """A number to so many digits that count; a dash for none, or one that is not finite."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return t.number(value, places) if places <= 6 else f"{value:.{digits - 1}e}"


def percent(share: float | None, t: Translator, digits: int = 1) -> str:
    """A share as a percentage; a dash for none, or one that is not finite."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{t.number(100 * share, digits)} %"


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


MOST_WORDS = 3000  # comparing takes time that grows with the square; what is longer is shown unmarked
_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+")


def pieces(reference: str, text: str) -> list[tuple[str, bool]]:
    """`text` in pieces, each with whether it differs from `reference`; joined, they are the text."""
    old, new = _WORDS.findall(reference), _WORDS.findall(text)
    if max(len(old), len(new)) > MOST_WORDS or not new:
        return [(text, False)] if text else []
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new])
    parts: list[tuple[str, bool]] = []
    for kind, _, _, start, end in matcher.get_opcodes():
        if start < end:
            parts.append(("".join(new[start:end]), kind != "equal"))
    return parts


def marked(reference: str, text: str) -> str:
    """`text` as HTML, with what differs from `reference` in <mark>."""
    return "".join(_mark(part) if differs else escape(part) for part, differs in pieces(reference, text))


def _mark(part: str) -> str:
    """The white space before a word is left plain, so that marks do not begin in the void."""
    word = part.lstrip()
    return f"{escape(part[: len(part) - len(word)])}<mark>{escape(word)}</mark>"
