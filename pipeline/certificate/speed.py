"""How fast a loaded model is on this machine, and what memory it takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from engine.model import Model
from engine.runner import Runner
from engine.scheduler import Row

_PROMPT = 64  # tokens
_CONTEXT = 128


@dataclass(frozen=True)
class Speed:
    """Tokens a second for one conversation; `memory` is the process's growth in bytes, 0 where unknown."""

    prefill: float
    decode: float
    memory: int = 0


@dataclass(frozen=True)
class Effort:
    """How often a prompt is read, and how many tokens are written, to measure the speed."""

    readings: int
    steps: int


EFFORTS = {"fast": Effort(1, 8), "full": Effort(3, 32)}


def measure_speed(model: Model, threads: int, effort: Effort) -> Speed:
    """Read a prompt of 64 tokens, then write tokens one by one, with a model that has been made warm.

    The best reading and the best step count: other programs only ever slow us down.
    """
    runner = Runner(model, slots=1, context=_CONTEXT, batch=_PROMPT, threads=threads)
    tokens = [(100 + 37 * place) % model.vocab.size for place in range(_PROMPT)]
    try:
        _seconds(runner, Row(0, 0, tokens[:1], 1))  # the weights come into memory
        reading = [_seconds(runner, Row(0, 0, tokens, 1)) for _ in range(effort.readings)]
        writing = [_seconds(runner, Row(0, _PROMPT + n, tokens[:1], 1)) for n in range(effort.steps)]
    finally:
        runner.close()
    return Speed(_PROMPT / min(reading), 1 / min(writing))


def _seconds(runner: Runner, row: Row) -> float:
    runner.prepare(0, row.start)
    began = time.perf_counter()
    runner.decode([row])
    return time.perf_counter() - began


def resident_bytes() -> int:
    """This process's memory, mapped files included; 0 where /proc does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 if sizes else 0
