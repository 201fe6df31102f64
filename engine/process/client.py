"""ModelProcess: the server's end of one process that runs a model (engine.process.server)."""

from __future__ import annotations

import itertools
import logging
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from common.terminal import printable
from common.worker_process import start_child
from engine.config import EngineConfig, SamplingParams
from engine.core.stats import EngineStats
from engine.errors import EngineError, EngineStopped, ModelError, RequestError
from engine.process.messages import (
    CANCELLED,
    MAX_LINE,
    REPLIES,
    Accepted,
    Ask,
    Attach,
    Cancel,
    Command,
    Described,
    Detach,
    Events,
    Failed,
    Open,
    Opened,
    Ping,
    Pong,
    Progress,
    ProtocolError,
    Refused,
    decode,
    encode,
)
from engine.prompt.chat_template import check_prompt
from engine.serving.stream import Sink
from engine.types import Event, Finished, ModelInfo, ProgressCallback, PromptInput, TextToEmbed, no_progress

HANG_SECONDS = 10.0
"""A process that sends nothing for so long after a Ping is killed."""
_START_SECONDS = 120.0  # the same for its first reply, as a busy machine may take long to import libraries
_PING_SECONDS = 1.0
_LOG_LINES, _LINE = 20, 400  # of standard error, and bytes of each
_log = logging.getLogger("engine")


class DiedLoading(ModelError):
    """The process ended before the model was loaded."""


class Answer:
    """One request and where its events go; `accepted` is done when it is queued, refused or cancelled."""

    def __init__(self, adapter: int, prompt: PromptInput, sampling: SamplingParams) -> None:
        """Raises RequestError for messages without a known role or text, and for an empty text."""
        check_prompt(prompt)
        self.prompt: list[dict[str, str]] | str | TextToEmbed
        if isinstance(prompt, TextToEmbed):
            self.prompt = TextToEmbed(_valid(prompt.text))
        elif isinstance(prompt, str):
            self.prompt = _valid(prompt)
        else:
            self.prompt = [{"role": m["role"], "content": _valid(m["content"])} for m in prompt]
        self.adapter, self.sampling = adapter, sampling
        self.accepted: Future[None] = Future()
        self._sink: Sink = lambda item: None
        self._lock = threading.RLock()
        self._process: ModelProcess | None = None
        self._number = 0
        self._ended = False

    def listen(self, sink: Sink) -> int:
        """Send all events to `sink` from now on. Return 0, as it needs no number."""
        self._sink = sink
        return 0

    def send(self, ready: Future[ModelProcess]) -> None:
        """Send the request to the process that is ready, unless it was cancelled meanwhile."""
        if (error := ready.exception()) is not None:
            self.fail(error if isinstance(error, EngineError) else EngineError(str(error)))
            return
        with self._lock:
            if not self._ended:
                self._process = ready.result()
                self._number = self._process.ask(self)

    def cancel(self, _: int = 0) -> None:
        """Stop the answer, also while it waits for a process. Returns at once."""
        with self._lock:
            if self._process is None:
                self.deliver([CANCELLED])
            else:
                self._process.cancel(self._number)

    def deliver(self, events: Sequence[Event]) -> None:
        """Pass events on; they also mean that the request was accepted."""
        with self._lock:
            for event in events:
                if not self._ended:
                    self._ended = isinstance(event, Finished)
                    self._sink(event)
            self.accept()

    def fail(self, error: EngineError) -> None:
        """End the answer with an error."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._sink(error)
            if not self.accepted.done():
                self.accepted.set_exception(error)

    def accept(self) -> None:
        """Record that the request is queued."""
        with self._lock:
            if not self.accepted.done():
                self.accepted.set_result(None)


@dataclass
class _Opening:
    """The model, or an adapter, that is being opened."""

    opened: Future[ModelInfo]
    progress: ProgressCallback


class ModelProcess:
    """One process, started at once. It is not started again (see engine.process.supervisor)."""

    def __init__(self, path: Path, settings: EngineConfig, on_death: Callable[[EngineStopped], None]) -> None:
        """`on_death` is called from another thread when the process ends after it was opened."""
        self.name, self._on_death = path.name, on_death
        self.described: Future[ModelInfo] = Future()
        self.opened: Future[ModelInfo] = Future()
        self._lock = threading.RLock()  # guards the next five
        self._openings = {0: _Opening(self.opened, no_progress)}
        self._answers: dict[int, Answer] = {}
        self._stats: dict[int, EngineStats] = {}
        self._end: EngineError | None = None
        self._closed = False
        self._numbers = itertools.count(1)
        self._heard = time.monotonic()  # when the last reply came
        self._replied = False
        self._hung = False
        self._over = threading.Event()  # the process ended or was closed
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._child, self._lifeline = start_child(
            "engine.process.server", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._send(Open(str(path), settings))
        for work in (self._write_commands, self._read_errors, self._read_replies, self._watch):
            threading.Thread(target=work, name=f"model {self.name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Return whether the process died or was closed."""
        return self._end is not None

    def follow(self, progress: ProgressCallback) -> None:
        """Report the progress of the opening to `progress`, and end the process when it returns False."""
        if opening := self._openings.get(0):  # else it is open already
            opening.progress = progress

    def attach(self, adapter: int, path: Path, progress: ProgressCallback = no_progress) -> Future[ModelInfo]:
        """Start an engine with a LoRA adapter, under a number; return its description to come."""
        opened: Future[ModelInfo] = Future()
        with self._lock:
            if self._end is not None:
                opened.set_exception(self._end)
                return opened
            self._openings[adapter] = _Opening(opened, progress)
        self._send(Attach(adapter, str(path)))
        return opened

    def detach(self, adapter: int) -> None:
        """Stop the engine of an adapter, or that of the model for 0."""
        self._send(Detach(adapter))

    def ask(self, answer: Answer) -> int:
        """Send a request; return its number for `cancel`. Never blocks."""
        number = next(self._numbers)
        try:
            line = encode(Ask(number, answer.adapter, answer.prompt, answer.sampling))
        except ProtocolError as error:
            answer.fail(RequestError(f"the settings of the request cannot be sent: {error}"))
            return number
        with self._lock:
            end = self._end
            if end is None:
                self._answers[number] = answer
        if end is not None:
            answer.fail(end)
        else:
            self._outgoing.put(line)
        return number

    def cancel(self, number: int) -> None:
        """Stop a request, also before or while its prompt is prepared. Returns at once."""
        if number in self._answers:
            self._send(Cancel(number))

    def take_stats(self) -> dict[int, EngineStats]:
        """Return the counters of all engines by adapter, and forget them."""
        stats, self._stats = self._stats, {}
        return stats

    def stats(self, adapter: int) -> EngineStats:
        """Return an engine's counters, as of the last second or the last answer."""
        return self._stats.get(adapter, EngineStats())

    def close(self) -> None:
        """Kill the process: it has nothing to save. Its answers raise EngineStopped. Idempotent."""
        self._closed = True
        self._child.kill()
        self._child.wait()
        self._lifeline.close()
        self._ended(EngineStopped("the engine was shut down"))
        self._outgoing.put(None)

    def _send(self, command: Command) -> None:
        self._outgoing.put(encode(command))

    def _write_commands(self) -> None:
        assert self._child.stdin is not None
        with suppress(OSError), self._child.stdin as pipe:
            while (line := self._outgoing.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def _read_errors(self) -> None:
        """Log the first lines of the process's standard error: a stranger's file may fill it."""
        assert self._child.stderr is not None
        with self._child.stderr as pipe:
            left = _LOG_LINES
            while line := pipe.readline(_LINE):
                if left and (text := line.decode("utf-8", "replace").rstrip()):
                    _log.warning("%s: %s", self.name, printable(text))
                    left -= 1

    def _read_replies(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as pipe:
            try:
                self._handle_all(pipe)
            except ProtocolError as error:
                _log.error("the process of %s speaks nonsense: %s", self.name, error)
                self._child.kill()
        code = self._child.wait()
        self._outgoing.put(None)  # ends the writer
        self._lifeline.close()
        if self._closed:
            return
        reason = f"the process of {self.name} ended ({self._how(code)})"
        _log.error("%s", reason)
        if not self.opened.done() or self.opened.exception() is not None:
            self._ended(DiedLoading(f"{reason} while it was loaded: the file is damaged, or memory is short"))
            return
        death = EngineStopped(f"{reason}; it starts again: repeat the request")
        self._ended(death)
        self._on_death(death)

    def _handle_all(self, pipe: IO[bytes]) -> None:
        while line := pipe.readline(MAX_LINE):
            self._heard, self._replied = time.monotonic(), True
            reply = decode(line, REPLIES)
            if isinstance(reply, Events | Accepted | Failed):
                self._handle_answer(reply)
            elif isinstance(reply, Pong):
                self._stats = reply.stats
            elif isinstance(reply, Described):
                _resolve(self.described, reply.info)
            else:
                self._handle_opening(reply)

    def _handle_answer(self, reply: Events | Accepted | Failed) -> None:
        answer = self._answers.get(reply.request)
        if answer is None:
            return
        if isinstance(reply, Accepted):
            answer.accept()
            return
        ends = isinstance(reply, Failed) or any(isinstance(event, Finished) for event in reply.events)
        if ends:
            self._answers.pop(reply.request, None)
        if isinstance(reply, Failed):
            answer.fail(reply.failure.error())
        else:
            answer.deliver(reply.events)
        if ends:
            self._send(Ping())  # the counters changed

    def _handle_opening(self, reply: Progress | Opened | Refused) -> None:
        opening = self._openings.get(reply.adapter)
        if opening is None:
            return
        if isinstance(reply, Opened):
            self._openings.pop(reply.adapter, None)
            _resolve(opening.opened, reply.info)
        elif isinstance(reply, Refused):
            self._end_opening(reply.adapter, opening, reply.failure.error())
        elif not opening.progress(reply.share):
            self.detach(reply.adapter)
            self._end_opening(reply.adapter, opening, EngineStopped("nobody waits for this model any more"))

    def _end_opening(self, adapter: int, opening: _Opening, error: EngineError) -> None:
        """Fail a load. A failed model ends the process, a failed adapter does not."""
        if adapter == 0:
            self._ended(error)
            self.close()
        else:
            self._openings.pop(adapter, None)
            _reject(opening.opened, error)

    def _ended(self, error: EngineError) -> None:
        """Give `error` to all who wait for this process; only the first call has an effect."""
        with self._lock:
            if self._end is not None:
                return
            self._end = error
            self._over.set()
            openings, answers = list(self._openings.values()), list(self._answers.values())
            self._openings.clear()
            self._answers.clear()
        _reject(self.described, error)
        for opening in openings:
            _reject(opening.opened, error)
        for answer in answers:
            answer.fail(error)

    def _watch(self) -> None:
        """Ping while something is under way, and kill the process when it does not answer."""
        pinged: float | None = None  # when the first Ping without a reply was sent
        while not self._over.is_set():
            if pinged is not None and self._heard > pinged:
                pinged = None
            if pinged is None and (self._answers or self._openings):
                pinged = time.monotonic()
                self._send(Ping())
            limit = HANG_SECONDS if self._replied else _START_SECONDS
            if pinged is not None and time.monotonic() - pinged > limit:
                self._hung = True
                self._child.kill()
                return
            self._over.wait(_PING_SECONDS)

    def _how(self, code: int) -> str:
        if self._hung:
            return "it hung"
        if code >= 0:
            return f"exit code {code}"
        known = -code in signal.Signals._value2member_map_
        return signal.Signals(-code).name if known else f"signal {-code}"


def _valid(text: str) -> str:
    """Replace lone surrogates, which JSON in UTF-8 cannot carry, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _resolve(future: Future[ModelInfo], info: ModelInfo) -> None:
    if not future.done():
        future.set_result(info)


def _reject(future: Future[ModelInfo], error: EngineError) -> None:
    if not future.done():
        future.set_exception(error)
