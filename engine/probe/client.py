"""Runs engine.probe.child: one job in one child process, with a time limit and progress."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.worker_process import Message, WorkerDied, WorkerProcess
from engine.errors import EngineStopped
from engine.types import ProgressCallback, no_progress
from ggufio import shards

_RUN_SECONDS = 120.0
_SLOW_DISK = 40e6  # bytes a second: a model that is read from a laptop's disk may take that long
_TIMEOUT, _REFUSED = 124, 3  # exit codes for a child that was killed at its time limit, or refused the file


@dataclass(frozen=True)
class ProbeResult:
    """A child's exit code, the `stage` it reached, and its answer, None if it died.

    The stage is "" before the child was ready to open the file.
    """

    code: int
    stage: str
    answer: dict[str, Any] | None

    @property
    def ending(self) -> str:
        """The exit code in words."""
        if self.code == _TIMEOUT:
            return "no answer in time"
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"


def compute(
    job: str,
    model: Path,
    *,
    adapter: Path | None = None,
    variant: str | None,
    extra_buffers: bool,
    threads: int,
    progress: ProgressCallback = no_progress,
) -> ProbeResult:
    """Load the weights in a child and compute with them, on a variant of the CPU backend; see `run_probe`."""
    request = {
        "job": job,
        "model": str(model),
        "adapter": str(adapter) if adapter else None,
        "variant": variant,
        "extra_buffers": extra_buffers,
        "threads": threads,
    }
    return run_probe(request, _RUN_SECONDS + shards.size(model) / _SLOW_DISK, progress)


def run_probe(request: Message, seconds: float, progress: ProgressCallback = no_progress) -> ProbeResult:
    """Run one job of engine.probe.child for at most that many seconds.

    `progress` gets the loaded share of the weights. Raises EngineStopped when it returns False.
    """
    deadline, stage = time.monotonic() + seconds, ""

    def on_message(message: Message) -> None:
        nonlocal stage
        check_time()
        stage = message.get("stage", stage)
        if "loaded" in message and not progress(message["loaded"]):
            raise EngineStopped("nobody waits for this model any more")

    def check_time() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    with WorkerProcess("engine.probe.child") as child:
        try:
            return ProbeResult(0, stage, child.run(request, on_message, check_time))
        except InputError as error:
            return ProbeResult(_REFUSED, stage, {"error": str(error)})
        except WorkerDied as error:
            return ProbeResult(error.code, stage, None)
        except TimeoutError:
            return ProbeResult(_TIMEOUT, stage, None)
