"""Runs steps in a child process: llama.cpp may abort, and the converter wants a `gguf` of its own.

The child reads requests, a JSON object a line, from standard input, and answers each on standard output with
JSON lines, the last of which is its result or its error. Its standard error goes to a log file. The child
ends with its parent, even when the parent was killed: its input ends then.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from common.paths import without_secrets
from pipeline.errors import InputError, PipelineError

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.2
Message = dict[str, Any]
_Lines = Queue[Message | None]
"""Messages in their order, and None when there will be no more."""


class WorkerDied(PipelineError):
    """A child process came to no end: the `reason`, and the `log` of all that it said."""

    def __init__(self, reason: str, log: Path) -> None:
        super().__init__(f"{reason} (its log is {log})")
        self.reason = reason
        self.log = log


def run_worker(
    module: str,
    request: Mapping[str, Any],
    log: Path,
    on_message: Callable[[Message], None] = lambda message: None,
    on_tick: Callable[[], None] = lambda: None,
) -> Message:
    """Run `python -m module` for one request; see Child."""
    with WorkerProcess(module, log) as child:
        return child.run(request, on_message, on_tick)


class WorkerProcess:
    """`python -m module`, started at once: it imports what it needs before the first request is known.

    Close it when no more is wanted of it. It is killed then: what it was asked is done and its files are
    closed, and taking torch down tidily costs a second.
    """

    def __init__(self, module: str, log: Path) -> None:
        self._module, self._log = module, log
        environment = {**without_secrets(os.environ), "PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1"}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the child
            )
        assert self._process.stdout is not None
        self._messages: _Lines = Queue()
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._messages), daemon=True
        )
        self._reader.start()

    def run(
        self,
        request: Mapping[str, Any],
        on_message: Callable[[Message], None] = lambda message: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Message:
        """Have one request done and return its result.

        `on_message` gets what the child says on its way, `on_tick` is called a few times a second.
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
                raise WorkerDied(_exit_reason(self._module, self._process.wait(), self._log), self._log)
            if "error" in message:
                raise InputError(message["error"])
            if "result" in message:
                result: Message = message["result"]
                return result
            on_message(message)

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead: `run` hears that from its output
            self._process.stdin.write(f"{json.dumps(request)}\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)


def _read(output: Iterable[str], messages: _Lines) -> None:
    """Pass on the child's messages; what a library prints to standard output is dropped."""
    for line in output:
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                messages.put(message)
    messages.put(None)


def _exit_reason(module: str, code: int, log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it said nothing"
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    if code == -signal.SIGALRM:  # common.system
        how = "ran out of time, as the model's chat template seems to loop for ever"
    return f"{module} {how}: {last}"


def serve(work: Callable[[Message], Message], ahead: Sequence[str] = ()) -> None:
    """The child's side: run `work` on each request and answer with its result, until the parent is gone.

    `ahead` are modules that take long to import, and that some requests need: what is missing, those tell.
    """
    requests: Queue[Message] = Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    for module in ahead:
        with suppress(ImportError):
            importlib.import_module(module)
    while True:
        try:
            send({"result": work(requests.get())})
        except InputError as error:
            send({"error": str(error)})


def send(message: Message) -> None:
    """Send a message to the parent."""
    print(json.dumps(message), flush=True)


def _read_requests(requests: Queue[Message]) -> None:
    """Take requests while others are at work; the end of the input ends the process at once."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(1)
