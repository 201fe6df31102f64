"""Calls that may never end, each in turn in a thread of their own, against a clock."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import ClassVar, TypeVar

_T = TypeVar("_T")
_QUICK = 0.25  # seconds; what takes no longer is not counted


class TooSlow(Exception):
    """The calls took longer in all than they may."""


class ClockedThread:
    """One caller's calls. C cannot be interrupted: what takes too long is left alone, to end or not."""

    _left_alone: ClassVar[list[threading.Thread]] = []

    def __init__(self, seconds: float) -> None:
        """`seconds` are what all slow calls may take together."""
        self._left = seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="clocked", daemon=True)
        self._thread.start()

    @classmethod
    def busy(cls) -> bool:
        """Whether a call that was given up still runs."""
        cls._left_alone[:] = [thread for thread in cls._left_alone if thread.is_alive()]
        return bool(cls._left_alone)

    def call(self, function: Callable[[], _T]) -> _T:
        """What `function` returns or raises. Raises TooSlow, and then nothing but `close` may follow."""
        future: Future[_T] = Future()
        self._calls.put(lambda: _settle(future, function))
        began = time.monotonic()
        try:
            return future.result(max(0.0, self._left))
        except NotInTime as error:
            self._left_alone.append(self._thread)
            raise TooSlow from error
        finally:
            took = time.monotonic() - began
            self._left -= took if took > _QUICK else 0

    def close(self, last: Callable[[], None]) -> None:
        """Have `last` done after all other calls, and the thread ended. Returns at once."""
        self._calls.put(last)
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _settle(future: Future[_T], function: Callable[[], _T]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001 - a boundary: the caller is told
        future.set_exception(error)
