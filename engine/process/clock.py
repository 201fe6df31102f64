"""Work in threads with a limit on its CPU time: Python code is interrupted, C code is given up.

Chat templates and tokenizers come with strangers' files, and some conversations make them loop. Only a clock
at each use bounds that, as no check of the file can try all conversations.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from engine.errors import EngineError

T = TypeVar("T")
CPU_SECONDS = 3.0
"""What one piece of work may take; preparing the longest prompts takes a tenth of it."""
_IN_C = 10.0  # more seconds for C code, which cannot be interrupted, before the process is given up
_TICK = 0.05
_AT_ONCE = 2  # pieces of work; the others wait, as all share the interpreter's lock
_LEAST = 0.5  # seconds; the limit is halved down to it each time that work exceeds it,
_MEMORY = 60.0  # and is whole again after so many seconds without: many loops must not add up


class Interrupt(BaseException):
    """Raised inside work that is cancelled or out of time; not an Exception, so that nothing swallows it."""


class Task(Generic[T]):
    """One piece of work in its own thread; exactly one of its three callbacks is called."""

    def __init__(
        self,
        clock: Clock,
        work: Callable[[], T],
        on_result: Callable[[T], None],
        on_error: Callable[[EngineError], None],
        on_interrupt: Callable[[], None],
    ) -> None:
        self._clock, self._work = clock, work
        self._on_result, self._on_error, self.on_interrupt = on_result, on_error, on_interrupt
        self.interrupted = self.begun = False  # guarded by the clock
        self.thread = threading.Thread(target=self._run, name="prompt", daemon=True)

    def interrupt(self) -> None:
        """Stop the work: `on_interrupt` is called instead of the others. No effect after its end."""
        self._clock.interrupt(self)

    def _run(self) -> None:
        with self._clock.turns:
            finish = self._outcome()
        finish()

    def _outcome(self) -> Callable[[], None]:
        """Do the work, unless it was interrupted before; return the call that reports what became of it.

        An Interrupt may be raised anywhere after `enter`. At most one is, and it is raised at the latest when
        `leave` returns, inside the try.
        """
        finish, entered, left = _nothing, False, False
        while not left:
            try:
                if not entered:
                    entered = True
                    if self._clock.enter(self):
                        finish = self._report()
                left = self._clock.leave(self)
            except Interrupt:
                finish = self.on_interrupt
        return self.on_interrupt if self.interrupted and finish is not _nothing else finish

    def _report(self) -> Callable[[], None]:
        try:
            return partial(self._on_result, self._work())
        except EngineError as error:
            return partial(self._on_error, error)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: the caller gets the error
            return partial(self._on_error, EngineError(f"the prompt cannot be prepared: {error!r}"))


def _nothing() -> None:
    """Report nothing: the interrupt of a task that had not begun was reported at once."""


class Clock:
    """Watches tasks from a thread of its own."""

    def __init__(
        self, on_stuck: Callable[[], None], seconds: float = CPU_SECONDS, in_c: float = _IN_C
    ) -> None:
        """`on_stuck` is called when work goes on for `in_c` seconds of CPU time after its interrupt."""
        self._on_stuck, self._seconds, self._in_c = on_stuck, seconds, in_c
        self._limit, self._exceeded = seconds, -math.inf
        self.turns = threading.Semaphore(_AT_ONCE)
        # A lock made in C: an Interrupt cannot come between acquiring it and the `with` that releases it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._used: dict[Task[Any], _CpuTime] = {}
        threading.Thread(target=self._watch, name="clock", daemon=True).start()

    def start(
        self,
        work: Callable[[], T],
        on_result: Callable[[T], None],
        on_error: Callable[[EngineError], None],
        on_interrupt: Callable[[], None],
    ) -> Task[T]:
        """Run `work` in a thread, and one of the callbacks there at its end.

        `on_interrupt` of a task that has not begun is called by `interrupt`, in its caller's thread.
        """
        task = Task(self, work, on_result, on_error, on_interrupt)
        task.thread.start()
        return task

    def enter(self, task: Task[Any]) -> bool:
        """Watch the calling thread from now on; return False if the task was interrupted before."""
        with self._lock:
            task.begun = not task.interrupted
            if task.begun:
                self._used[task] = _CpuTime()
                self._changed.notify()
            return task.begun

    def leave(self, task: Task[Any]) -> bool:
        """Watch the calling thread no more. Return True."""
        with self._lock:
            self._used.pop(task, None)
            return True

    def interrupt(self, task: Task[Any]) -> None:
        """Raise Interrupt in the task's thread, if it works."""
        with self._lock:
            before, task.interrupted = task.interrupted, True
            if not before and task in self._used:
                thread = ctypes.c_ulong(task.thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Interrupt))
        if not before and not task.begun:
            task.on_interrupt()

    def _watch(self) -> None:
        while True:
            with self._lock:
                while not self._used:
                    self._changed.wait()
                self._check()
            time.sleep(_TICK)

    def _check(self) -> None:
        """Interrupt what exceeds the limit, and lower the limit for what follows."""
        now = time.monotonic()
        if now - self._exceeded > _MEMORY:
            self._limit = self._seconds
        for task, used in list(self._used.items()):
            seconds = used.seconds()
            if seconds > self._seconds + self._in_c:
                self._on_stuck()
            elif seconds > self._limit and not task.interrupted:
                self.interrupt(task)
                self._limit, self._exceeded = max(min(_LEAST, self._seconds), self._limit / 2), now


class _CpuTime:
    """CPU time of the thread that creates it; elapsed time where the system has no such clock."""

    def __init__(self) -> None:
        self._clock = time.CLOCK_MONOTONIC
        if sys.platform == "linux":
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._start = time.clock_gettime(self._clock)

    def seconds(self) -> float:
        """Return the seconds since the creation. The thread must still run."""
        return time.clock_gettime(self._clock) - self._start
