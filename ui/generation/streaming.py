"""Snapshots of a running answer, at a rate that a page can display.

Each update of a page costs the server most of a millisecond of CPU, taken from the model; so does, in part,
each token that wakes the event loop; and nobody can follow more than ten updates a second. So events are
folded into a `Progress` in batches, and after the first word it is yielded at most every `INTERVAL` seconds.
The last snapshot is always the complete answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

from engine.errors import EngineError, foreseen
from engine.serving.protocols import ChatStream
from engine.types import (
    Event,
    Finished,
    FinishReason,
    MessagesDropped,
    PrefillProgress,
    Queued,
    RequestStats,
    TextDelta,
)

INTERVAL = 1 / 10  # seconds
MAX_UPDATES = 40  # per second, over all pages


@dataclass
class Progress:
    """The state of a running answer. Times are those of `time.monotonic`, in seconds.

    `max_tokens` is the limit that was asked for: 0 for none, None where it is not known.
    """

    text: str = ""
    dropped: MessagesDropped | None = None
    position: int = 0
    prompt: PrefillProgress | None = None
    reason: FinishReason | None = None
    stats: RequestStats | None = None
    stop: str = ""
    error: EngineError | None = None
    pieces: int = 0
    started: float = field(default_factory=time.monotonic)
    first_text: float | None = None
    last_text: float | None = None
    max_tokens: int | None = None

    @property
    def done(self) -> bool:
        """True when the answer has ended."""
        return self.reason is not None or self.error is not None

    @property
    def is_full(self) -> bool:
        """True when an answer was cut before its own limit: by the context or by the server."""
        if self.reason != "length" or self.max_tokens is None:
            return False
        return not self.max_tokens or (
            self.stats is not None and self.stats.generated_tokens < self.max_tokens
        )

    @property
    def first_text_seconds(self) -> float | None:
        """The time to the first text, seen from the page."""
        return None if self.first_text is None else self.first_text - self.started

    @property
    def rate(self) -> float:
        """Tokens per second: exact after the end, until then estimated as text deltas per second."""
        if self.stats is not None:
            return self.stats.tokens_per_second
        if self.first_text is None or self.last_text is None or self.last_text <= self.first_text:
            return 0.0
        return (self.pieces - 1) / (self.last_text - self.first_text)

    def update(self, event: Event) -> None:
        """Apply an event."""
        if isinstance(event, TextDelta):
            self._append(event.delta)
        elif isinstance(event, PrefillProgress):
            self.position, self.prompt = 0, event
        elif isinstance(event, Queued):
            self.position = event.position
        elif isinstance(event, MessagesDropped):
            self.dropped = event
        elif isinstance(event, Finished):
            self.reason, self.stats, self.stop = event.reason, event.stats, event.stop

    def _append(self, delta: str) -> None:
        self.last_text = time.monotonic()
        self.first_text = self.first_text or self.last_text
        self.position, self.pieces, self.text = 0, self.pieces + 1, self.text + delta


async def snapshots(
    stream: ChatStream,
    interval: float = INTERVAL,
    prefix: str = "",
    readers: Callable[[], int] = lambda: 1,
    max_tokens: int | None = None,
) -> AsyncGenerator[Progress, None]:
    """Yield the answer's progress: each batch until the first text, then at most every `interval` seconds.

    The last snapshot is `done`. With many `readers` of answers, each is updated less often. `prefix` is the
    existing text of an answer that is continued; `max_tokens` as in `Progress`.

    An error of the stream ends up in the last snapshot, next to the text before it. When the reader goes
    away (the generator is closed or its task cancelled), the stream is cancelled at once.
    """
    progress = Progress(prefix, max_tokens=max_tokens)
    try:
        while not progress.done:
            yield replace(progress)
            pause = max(interval, readers() / MAX_UPDATES) if progress.first_text else 0.0
            try:
                for event in await stream.batch(pause):
                    progress.update(event)
            except Exception as error:  # noqa: BLE001 - the boundary: any error ends the answer
                progress.error = foreseen(error)
        yield replace(progress)
    finally:
        stream.cancel()
