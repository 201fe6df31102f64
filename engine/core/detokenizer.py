"""Token bytes -> text for the reader: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class IncrementalDetokenizer:
    """The text of one answer, as far as it may be shown.

    A character may be spread over several tokens, and a stop string too: both are held back until it is
    certain what they are.
    """

    def __init__(self, stop: Sequence[str] = (), *, skip_space: bool = False) -> None:
        """`skip_space` drops one leading space, which SentencePiece puts before a first word."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self._skip_space = skip_space
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Add a token's bytes; returns the text that is now certain. Sets `stopped` at a stop string."""
        text = self._decoder.decode(piece)
        if text and self._skip_space:
            self._skip_space = False
            text = text.removeprefix(" ")
        self._held += text
        return self._release(self._certain())

    def finish(self) -> str:
        """What was held back after all; half a character is dropped."""
        return "" if self.stopped else self._release(len(self._held))

    def _certain(self) -> int:
        """How many held characters may go out: up to a stop string, or to where one may begin."""
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return min(found)
        return len(self._held) - max((_overlap(self._held, stop) for stop in self._stop), default=0)

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`, but is not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
