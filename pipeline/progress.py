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
        if not (self._console.is_terminal or self._console.is_jupyter):
            lines = _Lines(self._console, title, total)
            yield lines.advance
            lines.end()
            return
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total, note="")

            def advance(done: int, note: str = "") -> None:
                # Before the first unit of work a note says what goes on, and the bar pulses: 0 % would not.
                progress.tasks[0].total = None if note and not done else total
                progress.update(task, completed=done, note=note)

            yield advance
            finished = total or 1
            progress.update(task, total=finished, completed=finished)


_COUNTABLE = 10_000  # a larger total is bytes or weights, of which a share says more


class _Lines:
    """Lines about a step that takes a while, where no bar can be drawn."""

    _SECONDS = 15.0

    def __init__(self, console: Console, title: str, total: int | None) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._started = self._shown = time.monotonic()
        self._since = self._started  # when the work that counts for the rate began, after `_first` units
        self._first: int | None = None
        self._say(f"{title} ...")

    def advance(self, done: int, note: str = "") -> None:
        """Print a line if the last one was some time ago.

        The rate counts neither what an earlier run did nor the time before the first unit of work.
        """
        now = time.monotonic()
        if not done:
            self._since, self._first = now, 0
        elif self._first is None:
            self._first = done - 1
        if now - self._shown < self._SECONDS:
            return
        self._shown = now
        parts = [self._share(done), note, self._left(done, now) or f"after {_clock(now - self._started)}"]
        self._say(f"{self._title}: {', '.join(part for part in parts if part)}")

    def end(self) -> None:
        """Print that the step is done, and how long it took."""
        self._say(f"{self._title}: 100%, after {_clock(time.monotonic() - self._started)}")

    def _share(self, done: int) -> str:
        if not self._total or not done:
            return ""
        if self._total == 100 or self._total > _COUNTABLE:
            return f"{100 * done // self._total}%"
        return f"{done} of {self._total}"

    def _left(self, done: int, now: float) -> str:
        if not self._total or self._first is None or done <= self._first:
            return ""
        return f"{_clock((now - self._since) / (done - self._first) * (self._total - done))} left"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
