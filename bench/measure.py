"""Measures a command: wall time, peak memory and bytes written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.worker_process import ROOT, last_line, python_path
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Usage:
    """Wall time in seconds, peak resident memory of the largest process in bytes, bytes written to disk."""

    seconds: float
    peak_bytes: int
    written_bytes: int


def measure(command: list[str], log: Path) -> Usage:
    """Run `command` with its output in `log`, and return its usage. Raises PipelineError when it fails.

    The figures come from the kernel and include all child processes (getrusage(2)).
    """
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": python_path(), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        how = f"failed with exit code {process.returncode}: {last_line(log)}"
        raise PipelineError(f"{' '.join(command[1:3])} {how}")
    # Linux counts resident memory in KiB and macOS in bytes; both count written blocks of 512 bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(time.monotonic() - started, usage.ru_maxrss * unit, usage.ru_oublock * 512)
