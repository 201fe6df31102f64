"""Incremental detokenizer: token bytes -> text, in whole characters and without stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class IncrementalDetokenizer:
    """Decodes the tokens of one answer.

    Characters and stop strings may span several tokens, so text is held back while it may be part of one.
    """

    def __init__(self, stop: Sequence[str] = (), *, skip_space: bool = False) -> None:
        """`skip_space` drops one leading space, which SentencePiece adds before the first word."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self._skip_space = skip_space
        self.stopped = ""

    def push(self, piece: bytes) -> str:
        """Add a token's bytes and return the text that is now certain. Sets `stopped` to a stop string."""
        text = self._decoder.decode(piece)
        if text and self._skip_space:
            self._skip_space = False
            text = text.removeprefix(" ")
        self._held += text
        return self._release(self._certain())

    def finish(self) -> str:
        """Return the text that is still held back, without an incomplete character."""
        return "" if self.stopped else self._release(len(self._held))

    def _certain(self) -> int:
        """Return how many held characters precede a stop string, or a possible beginning of one."""
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.stopped = min(found)
            return at
        return len(self._held) - max((_overlap(self._held, stop) for stop in self._stop), default=0)

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of `stop` that `text` ends with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
