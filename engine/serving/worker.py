"""The thread that owns the engine. Only requests, cancels and events cross threads, through queues."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.config import SamplingParams
from engine.core.engine import Engine
from engine.core.stats import EngineStats
from engine.errors import EngineError, EngineStopped, QueueFull
from engine.serving.reading_queue import Reading, ReadingQueue
from engine.serving.stream import Sink
from engine.types import Event, Finished

_log = logging.getLogger("engine")
_FAILURES, _WINDOW = 3, 60.0  # failures within seconds, after which the worker stops for good


@dataclass(frozen=True)
class _Add:
    request: int
    tokens: list[int]
    sampling: SamplingParams
    continues: bool
    reading: Reading | None


@dataclass(frozen=True)
class _Cancel:
    request: int


@dataclass(frozen=True)
class _Close:
    pass


class Worker:
    """Runs an engine in its own thread, and rebuilds it when it fails."""

    def __init__(
        self, build: Callable[[], Engine], readings: ReadingQueue | None = None, *, capacity: int
    ) -> None:
        """Start the thread and wait until the engine is built; raises what `build` raises.

        `readings` reads texts in the same thread; without it, none may be asked for. `capacity` is the
        maximum number of requests, running and waiting.
        """
        self._build, self._readings, self._capacity = build, readings, capacity
        self._inbox: queue.SimpleQueue[_Add | _Cancel | _Close] = queue.SimpleQueue()
        # Guards _sinks and _failure. Reentrant, because the garbage collector may run anywhere and collect an
        # abandoned stream, which cancels its request (see EventStream).
        self._lock = threading.RLock()
        self._sinks: dict[int, Sink] = {}
        self._failure: EngineError | None = None
        self._ids = itertools.count(1)
        self._failures: deque[float] = deque(maxlen=_FAILURES)
        self._engine = build()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        tokens: list[int],
        sampling: SamplingParams,
        sink: Sink,
        *,
        continues: bool = False,
        reading: Reading | None = None,
    ) -> int:
        """Queue a request; `sink` gets its events, in the engine's thread, and must not block.

        `continues` is True when the prompt ends with the beginning of the answer, and `reading`
        is what is wanted of the tokens in place of an answer. The last item that a sink gets is a Finished or
        an EngineError. Raises QueueFull and EngineStopped.
        """
        with self._lock:
            self.check_room()
            request = next(self._ids)
            self._sinks[request] = sink
            self._inbox.put(_Add(request, tokens, sampling, continues, reading))
        return request

    def check_room(self, preparing: int = 0) -> None:
        """Raise EngineStopped or QueueFull if `submit` would; `preparing` requests are not submitted yet."""
        if self._failure is not None:
            raise self._failure
        if (busy := len(self._sinks) + preparing) >= self._capacity:
            raise QueueFull(f"{busy} requests are being served or waiting: try again in a moment")

    def cancel(self, request: int) -> None:
        """Stop a request within one step; during its prefill, in the middle of the step."""
        with self._lock:
            if request not in self._sinks:
                return
        self._inbox.put(_Cancel(request))
        engine = self._engine
        if request in engine.reading:
            engine.runner.abort()

    @property
    def failed(self) -> bool:
        """Return whether the worker is closed or failed permanently, so that `submit` raises."""
        return self._failure is not None

    def stats(self) -> EngineStats:
        """Return the counters of this worker's engines. Safe from any thread."""
        return self._engine.stats()

    def close(self) -> None:
        """Stop all requests and the thread; waits for the step in progress."""
        self._inbox.put(_Close())
        engine = self._engine
        if engine.reading:
            engine.runner.abort()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._serve()
                reason: EngineError = EngineStopped("the engine was shut down")
                break
            except Exception as error:  # noqa: BLE001 - the boundary: every caller gets the error
                _log.error("the engine failed: %s", error, exc_info=error)
                self._fail(EngineStopped(f"the engine failed ({error}); it starts again: repeat the request"))
                if (gone := self._rebuild()) is not None:
                    reason = gone
                    break
        with self._lock:
            self._failure = reason
        self._fail(reason)
        self._close_engine()

    def _serve(self) -> None:
        """Step until a close command."""
        while True:
            command = self._next_command()
            if isinstance(command, _Close):
                return
            engine = self._engine
            if isinstance(command, _Add) and command.reading is not None:
                assert self._readings is not None
                self._readings.add(command.request, command.tokens, command.reading)
            elif isinstance(command, _Add):
                request, tokens, sampling = command.request, command.tokens, command.sampling
                self._deliver(engine.add(request, tokens, sampling, continues=command.continues))
            elif isinstance(command, _Cancel):
                self._deliver(engine.cancel(command.request))
                if self._readings is not None:
                    self._deliver(self._readings.cancel(command.request))
            else:
                if engine.busy:
                    self._deliver(engine.step())
                self._read()

    def _read(self) -> None:
        """Read a piece of a text that is only read, if there is one."""
        if self._readings is None or not self._readings.busy:
            return
        request, ended = self._readings.step()
        if not isinstance(ended, EngineError):
            self._deliver([(request, event) for event in ended])
            return
        with self._lock:
            sink = self._sinks.pop(request, None)
        if sink is not None:
            sink(ended)

    def _next_command(self) -> _Add | _Cancel | _Close | None:
        """Return the next command, or None while the engine is busy. Blocks while it is idle."""
        try:
            reads = self._readings is not None and self._readings.busy
            return self._inbox.get(block=not self._engine.busy and not reads)
        except queue.Empty:
            return None

    def _deliver(self, events: list[tuple[int, Event]]) -> None:
        for request, event in events:
            if isinstance(event, Finished):
                with self._lock:
                    sink = self._sinks.pop(request, None)
            else:
                sink = self._sinks.get(request)
            if sink is not None:
                sink(event)

    def _fail(self, error: EngineError) -> None:
        with self._lock:
            sinks, self._sinks = list(self._sinks.values()), {}
            if self._readings is not None:
                self._readings.clear()
            _drain(self._inbox)
        for sink in sinks:
            sink(error)

    def _rebuild(self) -> EngineError | None:
        """Build a new engine after a failure; return an error when that fails or happens too often."""
        self._failures.append(time.monotonic())
        if len(self._failures) == _FAILURES and self._failures[-1] - self._failures[0] < _WINDOW:
            return EngineStopped(
                "the engine failed too often and stays down: restart the app, and see its log"
            )
        self._close_engine()
        try:
            self._engine = self._build()
        except Exception as error:  # noqa: BLE001 - the boundary, as above
            return EngineStopped(f"the engine failed and could not start again: {error}")
        return None

    def _close_engine(self) -> None:
        try:
            if self._readings is not None:
                self._readings.close()
            self._engine.close()
        except Exception as error:  # noqa: BLE001 - the boundary, as above
            _log.error("the engine did not close: %s", error)


def _drain(inbox: queue.SimpleQueue[_Add | _Cancel | _Close]) -> None:
    """Discard requests and cancels, but keep a close command."""
    closing = False
    while not inbox.empty():
        closing = isinstance(inbox.get(), _Close) or closing
    if closing:
        inbox.put(_Close())
