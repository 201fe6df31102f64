"""The words of a search in a text: whether it has them, where, and an excerpt around them.

Case is ignored as Unicode folds it, in which a letter may become two ("ß" is "ss").
"""

from __future__ import annotations

import re
from itertools import accumulate

MAX_EXCERPT = 140  # characters
_BEFORE = 16  # characters of an excerpt before the first of the words, which is visible in a narrow list


def contains(text: str, words: str) -> bool:
    """Return whether a text has all words, which are folded and separated by spaces."""
    folded = text.casefold()
    return all(word in folded for word in words.split())


def marked(text: str, words: str) -> list[str]:
    """Split a text at the words: the items with even numbers are outside, the others are the words.

    Joined, they are the text. `words` as in `contains`.
    """
    parts, done = list[str](), 0
    for begin, end in _spans(text, words.split()):
        parts += [text[done:begin], text[begin:end]]
        done = end
    return [*parts, text[done:]]


def excerpt(text: str, words: str) -> str:
    """Return one line of at most `MAX_EXCERPT` characters, from shortly before the first of the words on."""
    folded = text.casefold()
    found = [place for word in words.split() if (place := folded.find(word)) >= 0]
    first = _unfolded(text, min(found, default=0), len(folded))
    begin = max(0, first - _BEFORE)
    if begin and (space := text.find(" ", begin, first)) >= 0:
        begin = space
    line = " ".join(text[begin : begin + 3 * MAX_EXCERPT].split())
    line = f"…{line}" if begin else line
    is_cut = len(line) > MAX_EXCERPT or begin + 3 * MAX_EXCERPT < len(text)
    return line[: MAX_EXCERPT - 1].rstrip() + "…" if is_cut else line


def _unfolded(text: str, place: int, folded_length: int) -> int:
    """Return the index in a text of the character at `place` in the folded text."""
    if folded_length == len(text):
        return place
    ends = accumulate(len(character.casefold()) for character in text)
    return next(index for index, end in enumerate(ends) if end > place)


def _spans(text: str, words: list[str]) -> list[tuple[int, int]]:
    """Return where the words are in a short text, in order and merged: begin and end, in characters."""
    folded = [character.casefold() for character in text]
    original = [index for index, part in enumerate(folded) for _ in part]
    found = [
        (original[match.start()], original[match.end() - 1] + 1)
        for word in words
        for match in re.finditer(re.escape(word), "".join(folded))
    ]
    spans: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((begin, end))
    return spans
