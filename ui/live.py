"""The answers under way, by browser tab: how Stop, a closed tab and a shutdown find what they must end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar


class Stoppable(Protocol):
    """An answer, or several at once, that can be stopped."""

    def cancel(self) -> None:
        """Stop; returns at once."""
        ...


S = TypeVar("S", bound=Stoppable)


class LiveStreams:
    """Streams by session. Used from the event loop alone, so it needs no lock."""

    def __init__(self) -> None:
        self._streams: defaultdict[str, set[Stoppable]] = defaultdict(set)

    @contextmanager
    def following(self, session: str, stream: S) -> Iterator[S]:
        """Keep `stream` findable while it runs; it is cancelled on the way out, however that happens."""
        self._streams[session].add(stream)
        try:
            yield stream
        finally:
            stream.cancel()
            self._streams[session].discard(stream)
            if not self._streams[session]:
                del self._streams[session]

    def cancel(self, session: str) -> None:
        """Stop what one tab asked for."""
        for stream in list(self._streams.get(session, ())):
            stream.cancel()

    def cancel_all(self) -> None:
        """Stop everything."""
        for session in list(self._streams):
            self.cancel(session)

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))
