"""Streams one answer from the engine's thread, or its process, to its single reader."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from engine.errors import EngineError
from engine.types import Event, Finished

Sink = Callable[[Event | EngineError], None]


class EventStream:
    """One answer in progress (engine.serving.protocols.ChatStream). Iterate it once, from one thread or task.

    Leaving the loop, cancelling the task, or dropping the stream cancels the answer.
    """

    def __init__(
        self, submit: Callable[[Sink], int], cancel: Callable[[int], None], first: Event | None = None
    ) -> None:
        """`submit` queues the request with a sink for its events, and returns the number for `cancel`.

        Raises what `submit` raises. `first` is an event to put before all others.
        """
        self._mail = _Mailbox()
        if first is not None:
            self._mail.put(first)
        self._request = submit(self._mail.put)
        self._stop = cancel
        # The engine references only the mailbox, so an abandoned stream is collected, and cancels.
        self._cancel = weakref.finalize(self, cancel, self._request)
        self._cancel.atexit = False

    def cancel(self) -> None:
        """Stop the answer; the stream then ends with Finished(reason="cancelled"). Returns at once."""
        self._stop(self._request)

    def __iter__(self) -> Iterator[Event]:
        try:
            while True:
                event = _unwrap(self._mail.get())
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel()  # no effect when the answer is complete

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while True:
                event = _unwrap(await self._mail.aget())
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel()

    async def batch(self, seconds: float) -> list[Event]:
        """See engine.serving.protocols.ChatStream. Call `cancel` when stopping before the end."""
        await self._mail.wait_for_end(seconds)
        events = [_unwrap(await self._mail.aget())]
        return [*events, *self._mail.get_events()]


def _unwrap(item: Event | EngineError) -> Event:
    if isinstance(item, EngineError):
        raise item
    return item


@dataclass(frozen=True)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    enough: Callable[[], bool]


class _Mailbox:
    """Events from the engine's thread to one reader, which waits in a thread or in an event loop."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._items: deque[Event | EngineError] = deque()
        self._ended = False
        self._waiter: _Waiter | None = None

    def put(self, item: Event | EngineError) -> None:
        """Add an item, and wake the reader if it waits for it. Never blocks."""
        with self._ready:
            self._items.append(item)
            self._ended = isinstance(item, Finished | EngineError)
            self._ready.notify()
            waiter = self._waiter
            if waiter is None or not waiter.enough():
                return
            self._waiter = None
        try:
            waiter.loop.call_soon_threadsafe(_wake, waiter.future)
        except RuntimeError:  # the reader's event loop is closed: there is no reader to wake
            return

    def get(self) -> Event | EngineError:
        """Return the next item; blocks the thread."""
        with self._ready:
            while not self._items:
                self._ready.wait()
            return self._items.popleft()

    def get_events(self) -> list[Event]:
        """Return all available events, up to an error."""
        events: list[Event] = []
        with self._ready:
            while self._items and not isinstance(item := self._items[0], EngineError):
                events.append(item)
                self._items.popleft()
        return events

    async def aget(self) -> Event | EngineError:
        """Return the next item; waits in the event loop, without a thread."""
        await self._wait(lambda: bool(self._items))
        return self._items.popleft()

    async def wait_for_end(self, seconds: float) -> None:
        """Wait for the last item, for at most that many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wait(lambda: self._ended), seconds)

    async def _wait(self, enough: Callable[[], bool]) -> None:
        """Wait in the event loop until `enough()` is true; it is checked after each item."""
        with self._ready:
            if enough():
                return
            loop = asyncio.get_running_loop()
            self._waiter = waiter = _Waiter(loop, loop.create_future(), enough)
        await waiter.future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
