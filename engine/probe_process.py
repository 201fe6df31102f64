"""engine.probe in a child process: what it is asked, and how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        """In a few words."""
        if self.code == _TIMEOUT:
            return "no answer in time"
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"


def compute(
    job: str, model: Path, *more: str, variant: str | None, extra_buffers: bool, threads: int
) -> Ended:
    """Have a child load the weights and compute with them, on a variant of the backend."""
    chosen = ["--variant", variant] if variant else []
    plain = [] if extra_buffers else ["--no-extra-bufts"]
    arguments = [job, str(model), *chosen, *plain, "--threads", str(threads), *more]
    return ask_child(arguments, _RUN_SECONDS + model.stat().st_size / _SLOW_DISK)


def ask_child(arguments: list[str], seconds: float) -> Ended:
    """Run `python -m engine.probe` with arguments, for so long at most."""
    root = str(Path(__file__).resolve().parents[1])
    secret = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # the file is a stranger's: it gets no secrets to read
    env = {key: value for key, value in os.environ.items() if key not in secret}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.probe", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ended(_TIMEOUT, True, None)
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("{")]
    answers = [json.loads(line) for line in lines]
    ready = {"ready": True} in answers
    answers = [answer for answer in answers if answer != {"ready": True}]
    return Ended(done.returncode, ready, answers[-1] if answers else None)
