"""A long text in pieces that llama.cpp can read.

For most byte-level vocabularies llama.cpp splits a text into words with std::regex, which in GCC's library
recurses for each character of a match. A "word" of 30,000 characters overflows a thread's 8 MB of stack, and
the process is gone. With Tekken's pattern that is a row of letters, with EXAONE's an ordinary long sentence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

LONGEST = 8192  # characters; a third of what the hungriest pattern survives
# Up to the last place that no token spans: before a line, else before a word. With more space than that it
# matters to many patterns whether something follows; and some take "/" for a part of a line's end.
_LINES, _WORDS = re.compile(r".*\S\n(?=[^\s/])", re.DOTALL), re.compile(r".*\S(?= \S)", re.DOTALL)


def pieces(text: str, spellings: Collection[str]) -> Iterator[str]:
    """The text in pieces of at most LONGEST characters, cut where that changes no token, if possible.

    `spellings` are those of tokens that are read as a whole; none of them is cut in two.
    """
    start = 0
    while len(text) - start > LONGEST:
        end = _end(text, start, spellings)
        yield text[start:end]
        start = end
    yield text[start:]


def _end(text: str, start: int, spellings: Collection[str]) -> int:
    most = start + LONGEST
    found = _LINES.match(text, start, most) or _WORDS.match(text, start, most)
    end = found.end() if found else most
    for spelling in spellings:
        begin = text.find(spelling, max(start + 1, end - len(spelling) + 1), end + len(spelling) - 1)
        end = end if begin < 0 else begin
    return end
