"""app.py as people run it: a process of its own, on a free port, with the embedded model."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class AppProcess:
    """A running app; `log` is what it has written so far, `address` where its page is."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.log = ""
        self.process = subprocess.Popen(
            [sys.executable, "app.py", *arguments],
            cwd=ROOT,
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
        """Wait until the app says that it is ready."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if found := re.search(r"Ready: (http://\S+)", self.log):
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"app.py is not ready (exit code {self.process.poll()}):\n{self.log}")

    def stop(self, timeout: float = 20) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextlib.contextmanager
def running(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[AppProcess]:
    """The app, ended whatever happens."""
    app = AppProcess(*arguments, env=env)
    try:
        yield app
    finally:
        if app.process.poll() is None:
            app.stop()
