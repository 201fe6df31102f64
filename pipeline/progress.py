"""One progress bar per step, for whoever watches an export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]
"""Takes the work done so far, in the unit of the step's total."""


class StepProgress(Protocol):
    """What a step tells about itself while it runs."""

    def step(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Open a step of `total` units of work (None when that is not known)."""
        ...


class NoProgress:
    """Shows nothing; for callers that have no one watching."""

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """A step that nobody sees."""
        yield lambda done: None


class ProgressBars:
    """Draws one bar per step on a terminal; where there is none, a line as each starts and as it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """Draw the bar of one step."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        if not self._console.is_terminal:
            self._console.print(f"{title} ...", markup=False, highlight=False)
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)
            finished = total or 1
            progress.update(task, total=finished, completed=finished)
