"""What comes from files cannot drive the terminal, whichever command prints it."""

from __future__ import annotations

import io
import logging
import subprocess
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from common.terminal import printable, printable_logs, say, terminal_console
from tests.ui.app_process import ROOT

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\x00b"
"""Renames the window, clears the screen, colours, goes back and overwrites."""
SHOWN = "a]0;owned[2J31mb"


def test_text_keeps_its_lines_and_loses_its_controls() -> None:
    assert printable(f"{EVIL}\n\té中") == f"{SHOWN}\n\té中"
    assert printable("a\udcffb") == "a?b"  # the name of a file that is no UTF-8


def test_a_console_keeps_its_own_colours_alone() -> None:
    out = io.StringIO()
    console = terminal_console(file=out, force_terminal=True, width=80, color_system="standard")
    table = Table(title=Text(EVIL))
    table.add_column(EVIL)
    table.add_row(Text(EVIL, "red"))
    console.print(table)
    console.print(EVIL, style="bold", markup=False, highlight=False)
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bars:
        bars.add_task(EVIL)
    written = out.getvalue()
    assert "\x1b[1m" in written and "\x1b[31m" in written  # bold, red: ours
    assert written.count(SHOWN) >= 5
    assert not any(control in written for control in ("\x1b]", "\x07", "\x1b[2J\x9b", "\x9b", "\x08", "\x00"))


def test_logs_and_lines(capsys: pytest.CaptureFixture[str], python: str) -> None:
    say(EVIL)
    assert capsys.readouterr().out == f"{SHOWN}\n"
    code = (
        "import logging; from common.terminal import printable_logs; printable_logs();"
        f"logging.getLogger('engine').error('it ended: %s', {EVIL!r})"
    )
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == f"it ended: {SHOWN}\n"
    assert logging.lastResort is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["app.py", "{evil}.gguf"],
        ["app.py", "--models", "{evil}=x.gguf"],
        ["app.py", "{folder}"],
        ["scripts/chat.py", "{evil}.gguf"],
        ["scripts/chat.py", "{folder}", "-p", "hi"],
        ["scripts/chat.py", "--prompt-file", "{evil}"],
        ["scripts/export_gguf.py", "--base", "{evil}", "--out", "{folder}/out"],
        ["scripts/export_gguf.py", "--base", "{folder}", "--out", "{folder}/out"],
        ["scripts/export_gguf.py", "certify", "{evil}.gguf", "--reference", "x"],
        ["scripts/finetune.py", "--base", "x", "--data", "{evil}", "--out", "{folder}/out"],
        ["scripts/dataset.py", "inspect", "{evil}"],
        ["gguf_chat.py", "{evil}"],
    ],
)
def test_an_error_of_any_command_is_one_printable_line(
    tmp_path: Path, python: str, command: list[str]
) -> None:
    evil = EVIL.replace("\x00", "")
    folder = tmp_path / evil
    folder.mkdir()
    (folder / f"{evil}.gguf").write_bytes(b"GGUFnone")
    (folder / "model.safetensors").write_bytes(b"none")
    (folder / "config.json").write_text("{" + evil)
    filled = [word.format(evil=evil, folder=folder) for word in command]
    done = subprocess.run([python, *filled], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    *before, error = done.stderr.splitlines()
    assert error.startswith("error: ") and "Traceback" not in done.stderr
    assert all(line.startswith("Loading ") for line in before)
    assert printable(done.stdout + done.stderr) == done.stdout + done.stderr


def test_letters_that_the_terminal_lacks_raise_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    printable_logs()
    say("SmolLM2 · Q4_1 é")
    assert written.getvalue() == b"SmolLM2 ? Q4_1 ?\n"
