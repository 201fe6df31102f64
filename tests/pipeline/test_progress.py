from __future__ import annotations

import io

from rich.console import Console

from pipeline.progress import ProgressBars


def test_off_a_terminal_a_step_is_told_as_it_starts_and_as_it_ends() -> None:
    console = Console(file=io.StringIO(), width=80)
    assert isinstance(console.file, io.StringIO)
    with ProgressBars(console).step("Convert to f16", 100) as advance:
        advance(40)
        assert console.file.getvalue() == "Convert to f16 ...\n"
    assert "100%" in console.file.getvalue().splitlines()[-1]


def test_on_a_terminal_there_is_the_bar_alone() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    assert isinstance(console.file, io.StringIO)
    with ProgressBars(console).step("Convert", 100):
        pass
    assert "Convert ..." not in console.file.getvalue()
