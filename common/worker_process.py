"""Steps in a child process: llama.cpp may abort, and llama.cpp's converter needs its own `gguf` package.

The child reads requests from standard input, one JSON object a line, and answers each with JSON lines on
standard output: messages on its progress, then the result or an error. It ends with its parent, even when
the parent was killed: its input and its lifeline end then.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from common.errors import InputError, UserError
from common.paths import without_secrets

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.2
Message = dict[str, Any]
_Messages = Queue[Message | None]
"""The child's messages in order, then None."""


class WorkerDied(UserError):
    """A child process ended before it answered; `code` is as in subprocess.Popen.returncode."""

    def __init__(self, reason: str, log: Path | None = None, code: int = 1) -> None:
        """`log` is the file with the child's standard error, if it was kept."""
        super().__init__(f"{reason} (its log is {log})" if log else reason)
        self.reason, self.log, self.code = reason, log, code


def run_worker(
    module: str,
    request: Mapping[str, Any],
    log: Path,
    on_message: Callable[[Message], None] = lambda message: None,
    on_tick: Callable[[], None] = lambda: None,
) -> Message:
    """Run `python -m module` for one request; the rest is as in `WorkerProcess.run`."""
    with WorkerProcess(module, log) as child:
        return child.run(request, on_message, on_tick)


_LIFELINE = "GGUF_CHAT_LIFELINE"


def start_child(module: str, **popen: Any) -> tuple[subprocess.Popen[Any], socket.socket]:
    """Start `python -m module` with the keyword arguments of Popen; return it and its lifeline.

    The child ends when the lifeline is closed, or when this process ends, if it calls `end_with_parent`.
    """
    lifeline, theirs = socket.socketpair()
    environment = {
        **without_secrets(os.environ),
        "PYTHONPATH": python_path(),
        "PYTHONUNBUFFERED": "1",
        "GGML_NO_BACKTRACE": "1",  # a failed assertion would start gdb
        _LIFELINE: str(theirs.fileno()),
    }
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C reaches only the parent, which then ends the child
            **popen,
        )
    return process, lifeline


def end_with_parent() -> None:
    """Let the kernel end this process when its lifeline is closed.

    A thread that waits for the end of the input does not run while C code holds the interpreter's lock.
    With O_ASYNC, a socket sends SIGIO when its peer is closed, which ends the process (man 7 signal).
    """
    text = os.environ.pop(_LIFELINE, "")
    if not text or sys.platform != "linux":
        return
    descriptor = int(text)
    os.set_inheritable(descriptor, False)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)


class WorkerProcess:
    """`python -m module`, started at once, so that it imports its libraries before the first request.

    Its standard error goes to the file `log`, or nowhere. `close` kills it: its work is done and its files
    are closed by then, and an orderly shutdown of torch takes a second.
    """

    def __init__(self, module: str, log: Path | None = None) -> None:
        self._module, self._log = module, log
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with Path(log or os.devnull).open("w", encoding="utf-8") as errors:
            self._process, self._lifeline = start_child(
                module,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                errors="replace",
            )
        assert self._process.stdout is not None
        self._messages: _Messages = Queue()
        self._reader = threading.Thread(
            target=_read_messages, args=(self._process.stdout, self._messages), daemon=True
        )
        self._reader.start()

    def run(
        self,
        request: Mapping[str, Any],
        on_message: Callable[[Message], None] = lambda message: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Message:
        """Send one request and return its result.

        `on_message` is called with each message on the progress, `on_tick` a few times a second between them.
        Raises InputError when the child refuses its input, and WorkerDied when it fails or dies.
        """
        self._send(request)
        while True:
            try:
                message = self._messages.get(timeout=POLL_SECONDS)
            except Empty:
                on_tick()
                continue
            if message is None:
                raise self._death()
            if "error" in message:
                raise InputError(message["error"])
            if "result" in message:
                result: Message = message["result"]
                return result
            on_message(message)

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the child is dead, and `run` notices when its output ends
            self._process.stdin.write(f"{json.dumps(request)}\n")
            self._process.stdin.flush()

    def _death(self) -> WorkerDied:
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        if code == -signal.SIGALRM:  # the timer of common.system.kill_after
            how = "ran out of time, as the model's chat template seems to loop for ever"
        last = f": {last_line(self._log)}" if self._log else ""
        return WorkerDied(f"{self._module} {how}{last}", self._log, code)

    def close(self) -> None:
        """Kill the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._lifeline.close()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def python_path() -> str:
    """Return the PYTHONPATH for a child process: the repository's root, then what is set already."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _read_messages(output: Iterable[str], messages: _Messages) -> None:
    """Queue the child's messages; anything else on its standard output is some library's, and dropped."""
    for line in output:
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                messages.put(message)
    messages.put(None)


def serve(
    work: Callable[[Message], Message],
    *,
    preload: Sequence[str] = (),
    refusals: tuple[type[Exception], ...] = (InputError,),
) -> None:
    """Run `work` on each request and send its result, until the parent is gone: the child's main loop.

    `preload` names modules that are slow to import; one that is missing is left to the requests that need it.
    The parent gets the `refusals` of `work` as InputError; any other exception ends the child.
    """
    end_with_parent()
    requests: Queue[Message] = Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    for module in preload:
        with suppress(ImportError):
            importlib.import_module(module)
    while True:
        try:
            send({"result": work(requests.get())})
        except refusals as error:
            send({"error": str(error)})


def send(message: Message) -> None:
    """Send a message to the parent."""
    print(json.dumps(message), flush=True)


def _read_requests(requests: Queue[Message]) -> None:
    """Queue requests while `work` runs; when the input ends, end the process at once."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(1)
