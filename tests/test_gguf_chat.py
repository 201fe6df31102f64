"""The console command: it has every sub-command, and a wrong one gives an error of one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gguf_chat import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name: str, root: Path, python: str) -> None:
    done = subprocess.run(
        [python, "gguf_chat.py", name, "--help"], cwd=root, capture_output=True, text=True, check=True
    )
    assert f"gguf-chat {name}" in done.stdout


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown and command.summary in shown for name, command in COMMANDS.items())


@pytest.mark.parametrize(
    ("words", "message"), [([], "a command is missing"), (["sevre"], "'sevre' is no command")]
)
def test_a_wrong_command_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in error and "serve, chat, export" in error and error.count("\n") == 1
