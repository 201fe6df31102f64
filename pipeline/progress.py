"""Progress of the pipeline's steps: the callback protocol, and bars on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Advance(Protocol):
    """Called with the work done so far, in units of the step's total, and perhaps a note to show."""

    def __call__(self, done: int, note: str = "", /) -> None:
        """Show it."""


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
        yield lambda done, note="": None


class ProgressBars:
    """Draws one bar per step on a terminal; elsewhere prints lines at its start, now and then, at its end."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """Draw the bar of one step."""
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=False),
            TextColumn("{task.fields[note]}", markup=False),
        )
        lines = None if self._console.is_terminal else _Lines(self._console, title, total)
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total, note="")

            def advance(done: int, note: str = "") -> None:
                progress.update(task, completed=done, note=note)
                if lines is not None:
                    lines.advance(done, note)

            yield advance
            finished = total or 1
            progress.update(task, total=finished, completed=finished)


class _Lines:
    """Lines about a step that takes a while, where no bar can be drawn."""

    _SECONDS = 15.0

    def __init__(self, console: Console, title: str, total: int | None) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._started = self._shown = time.monotonic()
        self._first: int | None = None
        console.print(f"{title} ...", markup=False, highlight=False)

    def advance(self, done: int, note: str) -> None:
        """Print a line if the last one was some time ago.

        What an earlier run did does not count for the rate.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = done - 1
        if not self._total or now - self._shown < self._SECONDS:
            return
        self._shown = now
        left = (now - self._started) / max(1, done - self._first) * (self._total - done)
        parts = [f"{done} of {self._total}", note, f"{_clock(left)} left" if done else ""]
        self._console.print(
            f"{self._title}: {', '.join(part for part in parts if part)}", markup=False, highlight=False
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
