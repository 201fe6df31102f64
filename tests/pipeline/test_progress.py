from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.convert import job
from pipeline.progress import Advance, NoProgress, ProgressBars


def test_off_a_terminal_a_step_is_told_as_it_starts_and_as_it_ends() -> None:
    console = Console(file=io.StringIO(), width=80)
    assert isinstance(console.file, io.StringIO)
    with ProgressBars(console).step("Convert to f16", 100) as advance:
        advance(40)
        assert console.file.getvalue() == "Convert to f16 ...\n"
    assert "100%" in console.file.getvalue().splitlines()[-1]


def lines_of(*calls: tuple[float, int, str], total: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines of a step whose `advance` is called at these seconds with what is done and a note."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    assert isinstance(console.file, io.StringIO)
    with ProgressBars(console).step("Work", total) as advance:
        for now[0], done, note in calls:
            advance(done, note)
    return console.file.getvalue().splitlines()


def test_off_a_terminal_lines_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [(16.0, 0, "reading the base"), (20.0, 0, ""), (25.0, 10, ""), (40.0, 40, ""), (90.0, 100, "")]
    assert lines_of(*calls, total=100, monkeypatch=monkeypatch) == [
        "Work ...",
        "Work: reading the base, after 0:00:16",  # and not 0 %
        "Work: 40%, 0:00:30 left",  # of the 20 s since the first work
        "Work: 100%, 0:00:00 left",
        "Work: 100%, after 0:01:30",
    ]


def test_off_a_terminal_bytes_are_a_share_and_an_earlier_runs_work_gives_no_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bytes_done = lines_of((15.0, 62_562_816, ""), total=103_672_709, monkeypatch=monkeypatch)
    assert bytes_done[1].startswith("Work: 60%, ")
    resumed = lines_of((10.0, 501, "loss 1.2"), (20.0, 502, "loss 1.1"), total=512, monkeypatch=monkeypatch)
    assert resumed[1] == "Work: 502 of 512, loss 1.1, 0:01:40 left"
    unknown = lines_of((15.0, 3, "sum"), total=None, monkeypatch=monkeypatch)
    assert unknown[1] == "Work: sum, after 0:00:15"


def test_on_a_terminal_what_has_not_begun_has_no_percentage() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    assert isinstance(console.file, io.StringIO)
    with ProgressBars(console).step("Convert", 100) as advance:
        advance(0, "reading the base")
        console.file.truncate(0)
        time.sleep(0.15)  # one refresh
        shown = console.file.getvalue()
        assert "reading the base" in shown and "0%" not in shown
        advance(40)
    assert "100%" in console.file.getvalue()


def test_a_conversion_says_what_it_does_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, str]] = []

    class Recorded(NoProgress):
        @contextmanager
        def step(self, title: str, total: int | None) -> Iterator[Advance]:
            yield lambda done, note="": seen.append((done, note))

    def worker(_: str, __: object, log: Path, on_message: Any, on_tick: Any) -> Any:
        on_message({"note": "reading the base"})
        on_tick()
        on_message({"bytes": 200})
        log.with_suffix(".gguf").write_bytes(bytes(50))
        on_tick()
        return {
            "tensors": 1,
            "parameters": 2,
            "merged_tensors": 0,
            "notes": [],
            "settings": {},
            "template": "",
        }

    monkeypatch.setattr(job, "run_worker", worker)
    monkeypatch.setattr(job, "from_json", lambda kind, found: found)
    monkeypatch.setattr(job, "to_json", lambda one: {})
    wanted: Any = SimpleNamespace(merged=(), outtype="f16", target=tmp_path / "x.gguf")
    job.convert(wanted, Recorded())
    assert seen == [(0, "starting PyTorch"), (0, "reading the base"), (25, "")]


def test_on_a_terminal_there_there_is_the_bar_alone() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    assert isinstance(console.file, io.StringIO)
    with ProgressBars(console).step("Convert", 100):
        pass
    assert "Convert ..." not in console.file.getvalue()
