"""Runs engine.probe.child in a child process, hears what it says, and tells how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.paths import without_secrets
from engine.errors import EngineStopped
from engine.types import ProgressCallback, no_progress
from ggufio import shards

_RUN_SECONDS = 120.0
_SLOW_DISK = 40e6  # bytes a second; a cold model on a laptop's disk is no fault
_TIMEOUT = 124


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, whether it got as far as opening the file, and its last JSON."""

    code: int
    ready: bool
    answer: dict[str, Any] | None

    @property
    def ending(self) -> str:
        """In words."""
        if self.code == _TIMEOUT:
            return "no answer in time"
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"


def compute(
    job: str,
    model: Path,
    *more: str,
    variant: str | None,
    extra_buffers: bool,
    threads: int,
    reach: ProgressCallback = no_progress,
) -> Ended:
    """Have a child load the weights and compute with them, on a variant of the backend; as `run_probe`."""
    chosen = ["--variant", variant] if variant else []
    plain = [] if extra_buffers else ["--no-extra-bufts"]
    arguments = [job, str(model), *chosen, *plain, "--threads", str(threads), *more]
    return run_probe(arguments, _RUN_SECONDS + shards.size(model) / _SLOW_DISK, reach)


def run_probe(arguments: list[str], seconds: float, reach: ProgressCallback = no_progress) -> Ended:
    """Run `python -m engine.probe.child` for so many seconds at most.

    `reach` is told how far the weights are loaded. Raises EngineStopped when it says to stop.
    """
    late = threading.Event()

    def too_late() -> None:
        late.set()
        process.kill()

    with _started(arguments) as process:
        timer = threading.Timer(seconds, too_late)
        timer.start()
        try:
            ready, answer = _listen(process, reach)
        finally:
            timer.cancel()
            process.kill()  # nothing happens to one that has ended
    return Ended(_TIMEOUT, True, None) if late.is_set() else Ended(process.returncode, ready, answer)


def _started(arguments: list[str]) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    env = without_secrets(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "engine.probe.child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _listen(process: subprocess.Popen[str], reach: ProgressCallback) -> tuple[bool, dict[str, Any] | None]:
    """Until the child ends: whether it was ready, and its last answer."""
    ready, answer = False, None
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith("{"):
            continue
        said: dict[str, Any] = json.loads(line)
        if said == {"ready": True}:
            ready = True
        elif "reached" not in said:
            answer = said
        elif not reach(said["reached"]):
            raise EngineStopped("nobody waits for this model any more")
    process.wait()
    return ready, answer
