"""Runs a step in a child process: llama.cpp may abort, and the converter wants a `gguf` of its own.

The child gets one JSON object as its argument and answers with JSON lines on standard output, the
last of which is its result or its error. Its standard error goes to a log file. The child ends
with its parent, even when the parent was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from pipeline.errors import InputError, PipelineError

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.2

Message = dict[str, Any]


class ChildDied(PipelineError):
    """A child process came to no end: the `reason`, and the `log` of all that it said."""

    def __init__(self, reason: str, log: Path) -> None:
        super().__init__(f"{reason} (its log is {log})")
        self.reason = reason
        self.log = log


def run_child(
    module: str,
    request: Mapping[str, Any],
    log: Path,
    on_message: Callable[[Message], None] = lambda message: None,
    on_tick: Callable[[], None] = lambda: None,
) -> Message:
    """Run `python -m module` on `request` and return its result.

    `on_message` gets what the child says on its way, `on_tick` is called a few times a second.
    Raises InputError when the child refuses its input, and PipelineError when it fails or dies.
    """
    result: Message | None = None
    with _started(module, request, log) as (process, messages):
        while True:
            try:
                message = messages.get(timeout=POLL_SECONDS)
            except Empty:
                on_tick()
                continue
            if message is None:
                break
            if "error" in message:
                raise InputError(message["error"])
            if "result" in message:
                result = message["result"]
            else:
                on_message(message)
        code = process.wait()
    if result is None or code != 0:
        raise ChildDied(_obituary(module, code, log), log)
    return result


@contextmanager
def _started(
    module: str, request: Mapping[str, Any], log: Path
) -> Iterator[tuple[subprocess.Popen[str], Queue[Message | None]]]:
    environment = {**os.environ, "PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(request)],
            stdin=subprocess.PIPE,  # its end tells the child that the parent is gone
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the child
        )
        messages: Queue[Message | None] = Queue()
        reader = threading.Thread(target=_read, args=(process, messages), daemon=True)
        reader.start()
        try:
            yield process, messages
        finally:
            process.kill()
            process.wait()
            reader.join()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)


def _read(process: subprocess.Popen[str], messages: Queue[Message | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        # A library that prints to standard output is not our protocol: its lines are dropped.
        if line.startswith("{"):
            messages.put(json.loads(line))
    messages.put(None)


def _obituary(module: str, code: int, log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it said nothing"
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    if code == -signal.SIGALRM:  # pipeline.certificate.clock
        how = "ran out of time, as the model's chat template seems to loop for ever"
    return f"{module} {how}: {last}"


def serve(work: Callable[[Message], Message]) -> None:
    """The child's side: run `work` on the request of the command line and answer with its result."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        result = work(json.loads(sys.argv[1]))
    except InputError as error:
        say({"error": str(error)})
        raise SystemExit(InputError.exit_code) from error
    say({"result": result})


def say(message: Message) -> None:
    """Send a message to the parent."""
    print(json.dumps(message), flush=True)


def _exit_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
