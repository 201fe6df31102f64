"""Which words of an answer differ from another one, as HTML. What models say is escaped: it is untrusted."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import escape

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
