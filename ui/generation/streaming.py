"""One answer under way -> snapshots of it, at a rate that a page can show.

Every update of a page costs the server most of a millisecond that the model wants, each token that wakes the
event loop costs some of it, and no eye follows more than ten updates a second. So the events are folded
into one `Progress`, a batch at a time, and it is shown at most every `INTERVAL` seconds once there is a word;
nothing is lost, and the last snapshot is always the complete answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

from engine.errors import EngineError
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

INTERVAL = 1 / 10
UPDATES = 40  # a second, of all pages together


@dataclass
class Progress:
    """How far one answer is. Times are in seconds on the clock of `time.monotonic`."""

    text: str = ""
    dropped: MessagesDropped | None = None
    position: int = 0
    prompt: PrefillProgress | None = None
    reason: FinishReason | None = None
    stats: RequestStats | None = None
    error: EngineError | None = None
    pieces: int = 0
    started: float = field(default_factory=time.monotonic)
    first_text: float | None = None
    last_text: float | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.reason is not None or self.error is not None

    @property
    def first_text_seconds(self) -> float | None:
        """The wait for the first word, as the reader felt it."""
        return None if self.first_text is None else self.first_text - self.started

    @property
    def rate(self) -> float:
        """Pieces of text in a second so far: close to tokens/s, which only the end knows exactly."""
        if self.stats is not None:
            return self.stats.tokens_per_second
        if self.first_text is None or self.last_text is None or self.last_text <= self.first_text:
            return 0.0
        return (self.pieces - 1) / (self.last_text - self.first_text)

    def take(self, event: Event) -> None:
        """Fold one event in."""
        if isinstance(event, TextDelta):
            self._take_text(event.delta)
        elif isinstance(event, PrefillProgress):
            self.position, self.prompt = 0, event
        elif isinstance(event, Queued):
            self.position = event.position
        elif isinstance(event, MessagesDropped):
            self.dropped = event
        elif isinstance(event, Finished):
            self.reason, self.stats = event.reason, event.stats

    def _take_text(self, delta: str) -> None:
        self.last_text = time.monotonic()
        self.first_text = self.first_text or self.last_text
        self.position, self.pieces, self.text = 0, self.pieces + 1, self.text + delta


async def snapshots(
    stream: ChatStream, interval: float = INTERVAL, begun: str = "", readers: Callable[[], int] = lambda: 1
) -> AsyncGenerator[Progress, None]:
    """The answer's progress: at once until its first word, and then every `interval` seconds at most.

    The last one is `done`. Where many `readers` follow answers, each is shown less often. `begun` is what the
    answer has already, when it is continued.

    An EngineError on the way is part of the last snapshot, next to the text that came before it. When the
    reader goes away (the generator is closed or its task cancelled) the stream is cancelled at once.
    """
    progress = Progress(begun)
    try:
        while not progress.done:
            yield replace(progress)
            pause = max(interval, readers() / UPDATES) if progress.first_text else 0.0
            try:
                for event in await stream.batch(pause):
                    progress.take(event)
            except EngineError as error:
                progress.error = error
        yield replace(progress)
    finally:
        stream.cancel()
