"""Compares our training with TRL's and with a plain loop on the same rows, in one run."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.measure import measure

WAYS = {
    "ours": "this project, float32",
    "ours-default": "this project's default precision",
    "rounded": "float32, through a base rounded to Q4_0",
    "distilled": "float32, distilled through that base (recover)",
    "trl": "TRL's defaults",
    "trl-tuned": "TRL, float32, no checkpointing, grouped by length",
    "plain": "a plain loop, all logits",
}
"""The ways to train, and how the table names them."""


@dataclass(frozen=True)
class TrainingFigures:
    """The figures of one way to train, one for each run: tokens a CPU second, and peak bytes."""

    name: str
    speeds: list[float]
    peaks: list[int]

    @property
    def speed(self) -> float:
        """The median tokens a CPU second."""
        return statistics.median(self.speeds)

    @property
    def peak(self) -> float:
        """The median peak of resident memory, in bytes."""
        return statistics.median(self.peaks)


@dataclass(frozen=True)
class TrainingOptions:
    """The rows to train on, those of a batch, the threads, and how often all are run."""

    rows: int = 128
    batch: int = 4
    threads: int = 1
    repeat: int = 1


def compare_training(
    base: Path, data: Path, options: TrainingOptions, scratch: Path, log: Callable[[str], None]
) -> list[TrainingFigures]:
    """Train each way on the first rows of the data, in turn. Raises PipelineError."""
    scratch.mkdir(parents=True, exist_ok=True)
    figures = {way: TrainingFigures(name, [], []) for way, name in WAYS.items()}
    os.environ |= {
        "OMP_NUM_THREADS": str(options.threads),
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
    }
    for _ in range(options.repeat):
        for way, figure in figures.items():
            result = scratch / f"train-{way}.json"
            words = [way, base, data, options.rows, options.batch, options.threads, result]
            command = [sys.executable, "-m", "bench.train_run", *map(str, words)]
            measure(command, result.with_suffix(".log"))
            found = json.loads(result.read_text(encoding="utf-8"))
            figure.speeds.append(found["tokens"] / found["cpu_seconds"])
            figure.peaks.append(found["peak_bytes"])
            log(
                f"{figure.name}: {figure.speeds[-1]:.1f} tokens a CPU second, "
                f"{found['peak_bytes'] / 1e9:.2f} GB at most"
            )
    return list(figures.values())
