"""How far the first model has loaded, as a bar in the terminal that starts the app."""

from __future__ import annotations

import sys
from concurrent.futures import wait

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engine.pool import ModelPool

TICK = 0.1  # seconds


def load_with_bar(pool: ModelPool, name: str) -> None:
    """Have the pool's default model in memory. Raises as `ModelPool.load`. Without a terminal, no bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    loan = pool.lend()
    try:
        with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task(name, total=1.0)
            while not wait([loan.backend], TICK).done:
                bar.update(task, completed=pool.loading(pool.default))
        loan.backend.result()
    finally:
        loan.give_back()
