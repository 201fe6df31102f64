"""The process that runs one model: reads commands from standard input, writes replies to standard output.

It works on strangers' bytes (weights, templates, schemas, texts over them) and may die: engine.process.client
notices. Three kinds of threads share it: the main thread reads commands and never blocks; each prompt is
prepared in a thread of its own, under a clock; and one thread writes the replies, so that the engine's thread
never waits for the server.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from common.system import limit_memory, process_memory, total_memory
from common.worker_process import end_with_parent
from engine.errors import EngineError, EngineStopped, RequestError
from engine.process.clock import Clock, Task
from engine.process.messages import (
    CANCELLED,
    COMMANDS,
    Accepted,
    Ask,
    Attach,
    Cancel,
    Command,
    Described,
    Detach,
    Events,
    Failed,
    Failure,
    Open,
    Opened,
    Ping,
    Pong,
    Progress,
    ProtocolError,
    Refused,
    Reply,
    decode,
    encode,
    request_of,
)
from engine.serving.backend import LlamaBackend, Prompt
from engine.types import Event, Finished, ProgressCallback, PromptInput

STUCK = 71  # exit code: C code does not return, or the engine failed for good
_GROWTH = 1 << 30  # bytes that the process may grow by after loading, beside its prefix cache
_TOO_SLOW = (
    "the model's chat template or tokenizer takes too long for this conversation: "
    "start a new chat, or choose another model"
)


class Outbox:
    """Replies on their way to the server, written by a thread of their own."""

    def __init__(self, descriptor: int) -> None:
        self._replies: queue.SimpleQueue[Reply | int] = queue.SimpleQueue()
        self._descriptor = descriptor
        threading.Thread(target=self._write, name="replies", daemon=True).start()

    def put(self, reply: Reply) -> None:
        """Send a reply. Never blocks."""
        self._replies.put(reply)

    def exit(self, code: int) -> None:
        """End the process once everything is sent."""
        self._replies.put(code)

    def _write(self) -> None:
        while True:
            reply = self._replies.get()
            if isinstance(reply, int):
                os._exit(reply)
            self._write_line(encode(reply))

    def _write_line(self, line: bytes) -> None:
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:  # the server is gone
            os._exit(0)


@dataclass
class _Request:
    """A request: its prompt is prepared by `task`, then it has a `number` in its engine."""

    backend: LlamaBackend
    task: Task[Prompt] | None = None
    number: int | None = None
    cancelled: bool = False


class ModelServer:
    """One model with its adapters, and the requests to them."""

    def __init__(self, send: Callable[[Reply], None], leave: Callable[[int], None]) -> None:
        """`send` sends a reply; `leave` ends the process with an exit code, after all replies."""
        self._send, self._leave = send, leave
        self._backends: dict[int, LlamaBackend] = {}  # by adapter; 0 is the model itself
        self._loader = ThreadPoolExecutor(1, "loader")
        self._cache_ram = 0  # bytes of one engine's prefix cache
        self._clock = Clock(on_stuck=lambda: leave(STUCK))
        self._lock = threading.RLock()  # guards _requests; reentrant, as an engine may answer within `submit`
        self._requests: dict[int, _Request] = {}

    def handle(self, command: Command) -> None:
        """Carry out a command, in another thread if it takes time."""
        if isinstance(command, Open):
            self._loader.submit(self._open, command)
        elif isinstance(command, Attach):
            self._loader.submit(self._attach, command)
        elif isinstance(command, Detach):
            self._loader.submit(self._detach, command.adapter)
        elif isinstance(command, Ask):
            self._ask(command)
        elif isinstance(command, Cancel):
            self._cancel(command.request)
        elif isinstance(command, Ping):
            self._send(Pong({key: backend.stats() for key, backend in list(self._backends.items())}))

    def _open(self, command: Open) -> None:
        self._cache_ram = command.settings.cache_ram
        self._serve(
            0,
            lambda: LlamaBackend.open(
                Path(command.path),
                command.settings,
                self._progress(0),
                on_described=lambda info: self._send(Described(info)),
            ),
        )

    def _attach(self, command: Attach) -> None:
        def attach() -> LlamaBackend:
            for model in self._backends.values():  # any: they share the weights
                return model.with_adapter(Path(command.path), progress=self._progress(command.adapter))
            raise EngineStopped("the model was closed")

        self._serve(command.adapter, attach)

    def _serve(self, adapter: int, open_backend: Callable[[], LlamaBackend]) -> None:
        """Open a backend, report it, and limit the memory that the process may take from then on."""
        limit_memory(total_memory())
        try:
            self._backends[adapter] = backend = open_backend()
        except Exception as error:  # noqa: BLE001 - the boundary: the server gets the error
            known = error if isinstance(error, EngineError) else EngineError(f"it does not load: {error!r}")
            self._send(Refused(adapter, Failure.of(known)))
        else:
            self._send(Opened(adapter, backend.info))
        caches = self._cache_ram * max(1, len(self._backends))
        limit_memory(process_memory("VmData") + caches + _GROWTH)

    def _progress(self, adapter: int) -> ProgressCallback:
        """Return a callback that reports each new percent. A load is stopped by ending the process."""
        last = -1

        def report(share: float) -> bool:
            nonlocal last
            if (percent := int(100 * share)) > last:
                last = percent
                self._send(Progress(adapter, share))
            return True

        return report

    def _detach(self, adapter: int) -> None:
        if backend := self._backends.pop(adapter, None):
            backend.close()

    def _ask(self, ask: Ask) -> None:
        backend = self._backends.get(ask.adapter)
        try:
            if backend is None:
                raise EngineStopped("the adapter was closed")
            with self._lock:
                preparing = [r for r in self._requests.values() if r.backend is backend and r.number is None]
                backend.check_room(len(preparing))
                request = self._requests[ask.request] = _Request(backend)
        except EngineError as error:
            self.refuse(ask.request, error, backend)
            return
        request.task = self._clock.start(
            lambda: backend.prepare(cast(PromptInput, ask.prompt), ask.sampling),
            on_result=lambda prompt: self._submit(ask.request, prompt),
            on_error=lambda error: self._fail(ask.request, error),
            on_interrupt=lambda: self._interrupted(ask.request),
        )

    def _submit(self, number: int, prompt: Prompt) -> None:
        """Queue a prepared prompt, unless its request was cancelled."""
        try:
            with self._lock:
                request = self._requests[number]
                if request.cancelled:
                    self._interrupted(number)
                    return
                if prompt.dropped is not None:
                    self._send(Events(number, [prompt.dropped]))
                request.number = request.backend.submit(prompt, lambda item: self._deliver(number, item))
            self._send(Accepted(number))
        except EngineError as error:
            self._fail(number, error)

    def _deliver(self, number: int, item: Event | EngineError) -> None:
        """Send an event of the engine, in its thread."""
        if isinstance(item, EngineError):
            self._fail(number, item)
            return
        if isinstance(item, Finished):
            self._forget(number)
        self._send(Events(number, [item]))

    def _fail(self, number: int, error: EngineError) -> None:
        request = self._forget(number)
        self.refuse(number, error, request.backend if request else None)

    def refuse(self, number: int, error: EngineError, backend: LlamaBackend | None = None) -> None:
        """End a request with an error, and the process too if its engine failed for good."""
        self._send(Failed(number, Failure.of(error)))
        if backend is not None and backend.failed and backend in self._backends.values():
            self._leave(STUCK)

    def _cancel(self, number: int) -> None:
        with self._lock:
            if (request := self._requests.get(number)) is None:
                return
            request.cancelled = True
            if request.number is not None:
                request.backend.cancel(request.number)
            elif request.task is not None:
                request.task.interrupt()

    def _interrupted(self, number: int) -> None:
        """End a request whose preparation was cancelled or ran out of time."""
        request = self._forget(number)
        if request is not None and request.cancelled:
            self._send(Events(number, [CANCELLED]))
        else:
            self._send(Failed(number, Failure.of(RequestError(_TOO_SLOW))))

    def _forget(self, number: int) -> _Request | None:
        with self._lock:
            return self._requests.pop(number, None)


def main() -> None:
    """Serve the commands of standard input until it ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end_with_parent()
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no reply
    outbox = Outbox(replies)
    server = ModelServer(outbox.put, outbox.exit)
    for line in sys.stdin.buffer:
        try:
            server.handle(decode(line, COMMANDS))
        except ProtocolError as error:
            if (number := request_of(line)) is None:
                raise
            server.refuse(number, RequestError(f"the settings of the request are not valid: {error}"))
    os._exit(0)


if __name__ == "__main__":
    main()
