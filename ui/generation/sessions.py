"""Running answers by browser tab, for Stop, closed tabs and shutdown to cancel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass
class TabRequest:
    """A tab's latest request, from the click to the end of the answer, in the conversation `key`.

    `stopped`: it was cancelled, possibly before it had a stream. `shown`: the tab still shows it.
    """

    stopped: bool = False
    shown: bool = True
    key: str = ""


class ActiveStreams:
    """Running answers by session. Used only from the event loop, so it needs no lock."""

    def __init__(self) -> None:
        self._streams: defaultdict[str, set[Stoppable]] = defaultdict(set)
        self._requests = BoundedDict[str, TabRequest]()

    def new_request(self, session: str) -> TabRequest:
        """Register a new request of a tab; cancel and detach its previous one."""
        self.detach(session)
        request = self._requests[session] = TabRequest()
        return request

    def is_current(self, session: str, key: str) -> bool:
        """Return whether the tab's request is in the conversation `key` and still shown."""
        request = self._requests.get(session)
        return request is not None and key != "" and request.key == key

    def detach(self, session: str) -> None:
        """Cancel and detach the tab's request: the tab shows something else, or was closed."""
        self.cancel(session)
        if request := self._requests.pop(session, None):
            request.shown = False

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
        """Stop the tab's request and its streams."""
        if request := self._requests.get(session):
            request.stopped = True
        for stream in list(self._streams.get(session, ())):
            stream.cancel()

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))
