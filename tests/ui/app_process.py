"""app.py in a child process, on a free port, with the embedded model."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class AppProcess:
    """A running app; `log` is its output so far. `command` is what Python runs, in the folder `cwd`."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = ("app.py",),
        cwd: Path = ROOT,
    ) -> None:
        self.log = ""
        self.process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GGUF_CHAT_HISTORY": "off", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line

    def address(self, timeout: float = 120) -> str:
        """Wait until the app is ready; return its URL."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if found := re.search(r"Ready: (http://\S+)", self.log):
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"app.py is not ready (exit code {self.process.poll()}):\n{self.log}")

    def stop(self, timeout: float = 20) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextlib.contextmanager
def running(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = ("app.py",),
    cwd: Path = ROOT,
) -> Iterator[AppProcess]:
    """Run the app for the duration of the `with` block."""
    app = AppProcess(*arguments, env=env, command=command, cwd=cwd)
    try:
        yield app
    finally:
        if app.process.poll() is None:
            app.stop()
