"""Progress of the pipeline's steps: the callback protocol, and bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]
"""Called with the work done so far, in units of the step's total."""


class StepProgress(Protocol):
    """Receives the progress of steps."""

    def step(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Open a step of `total` units of work (None: unknown)."""
        ...


class NoProgress:
    """Shows nothing."""

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """Open a step that is not shown."""
        yield lambda done: None


class ProgressBars:
    """Draws one bar per step on a terminal; elsewhere prints a line at its start and its end."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """Draw the bar of one step."""
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<28}", markup=False),
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
