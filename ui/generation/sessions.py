"""The answers under way, by browser tab: how Stop, a closed tab and a shutdown find what they must end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")
MOST = 10_000


class BoundedDict(dict[K, V]):
    """Keeps the entries that were set last, at most `MOST`. Only `latest[key] = value` sets one."""

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > MOST:
            del self[next(iter(self))]


class Stoppable(Protocol):
    """An answer, or several at once, that can be stopped."""

    def cancel(self) -> None:
        """Stop; returns at once."""
        ...


S = TypeVar("S", bound=Stoppable)


@dataclass
class TabRequest:
    """What a tab asked for last, from the click to the answer's end, and in which conversation.

    `stopped`: it is to end, though it may have no stream yet. `shown`: the tab has not gone on to another.
    """

    stopped: bool = False
    shown: bool = True
    key: str = ""


class ActiveStreams:
    """Streams by session. Used from the event loop alone, so it needs no lock."""

    def __init__(self) -> None:
        self._streams: defaultdict[str, set[Stoppable]] = defaultdict(set)
        self._turns = BoundedDict[str, TabRequest]()

    def begin(self, session: str) -> TabRequest:
        """A tab asks for something new: what it asked for before ends, and is shown no longer."""
        self.leave(session)
        turn = self._turns[session] = TabRequest()
        return turn

    def shows(self, session: str, key: str) -> bool:
        """Whether what a tab asked for last is in that conversation, and still to be seen there."""
        turn = self._turns.get(session)
        return turn is not None and key != "" and turn.key == key

    def leave(self, session: str) -> None:
        """A tab turns away from what it asked for (or is closed): that ends, and is shown no longer."""
        self.cancel(session)
        if turn := self._turns.pop(session, None):
            turn.shown = False

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
        if turn := self._turns.get(session):
            turn.stopped = True
        for stream in list(self._streams.get(session, ())):
            stream.cancel()

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))
