"""Streams of the engine by session, for Stop and closed tabs to cancel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")
MAX_ENTRIES = 10_000


class BoundedDict(dict[K, V]):
    """A dict of the `MAX_ENTRIES` entries set last. Only `d[key] = value` enforces the bound."""

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > MAX_ENTRIES:
            del self[next(iter(self))]


class Stoppable(Protocol):
    """An answer, or several at once, that can be stopped."""

    def cancel(self) -> None:
        """Stop; returns at once."""
        ...


S = TypeVar("S", bound=Stoppable)


class ActiveStreams:
    """Streams by session, or by conversation. Used only from the event loop, so it needs no lock."""

    def __init__(self) -> None:
        self._streams: defaultdict[str, set[Stoppable]] = defaultdict(set)

    @contextmanager
    def track(self, session: str, stream: S) -> Iterator[S]:
        """Register `stream` for the duration of the `with` block, and cancel it on leaving."""
        self._streams[session].add(stream)
        try:
            yield stream
        finally:
            stream.cancel()
            self._streams[session].discard(stream)
            if not self._streams[session]:
                del self._streams[session]

    def cancel(self, session: str) -> None:
        """Stop the session's streams."""
        for stream in list(self._streams.get(session, ())):
            stream.cancel()

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))
