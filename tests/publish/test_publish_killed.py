"""`publish model` as a command: killed in the middle, run again, and its token in no place."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from publish.cli.app import app
from tests.publish.conftest import WRITE
from tests.publish.exports import make_export
from tests.publish.hub_server import RunningHub

pytestmark = pytest.mark.slow

NAME = "you/bob"


def places_with(secret: str, folder: Path) -> Iterator[Path]:
    """Yield the files below a folder with a text in their name or their content."""
    for path in folder.rglob("*"):
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes()):
            yield path


@pytest.mark.parametrize(("road", "pattern"), [("lfs", r"PUT /part/\w+/2"), ("xet", "POST .*/commit/")])
def test_a_killed_upload_is_finished_by_the_same_command(
    hub: RunningHub, tmp_path: Path, root: Path, python: str, road: str, pattern: str
) -> None:
    hub.state.part_size = 1_000_000
    out = make_export(tmp_path / "bob", {"Q4_K_M": 2_500_000, "Q8_0": 900_000})
    fault = hub.state.fail(pattern, hold=threading.Event())
    environment = {
        **os.environ,
        **hub.environment(WRITE),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": str(int(road == "lfs")),
    }
    command = [python, "scripts/publish.py", "model", str(out), NAME]
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert fault.reached.wait(60)
    process.kill()
    stdout, stderr = process.communicate(timeout=20)
    repository = hub.state.repositories["model", NAME]
    assert repository.files == {} and len(repository.commits) == 1
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True, text=True)
    assert "7 files were uploaded; all 7 files are equal" in done.stdout
    assert done.stderr.splitlines() == [
        "sending bob-Q4_K_M.gguf, 1 of 7 (2.5 MB)",
        "adding 7 files to you/bob in one commit",
    ]
    assert len(repository.commits) == 2
    for output in (stdout, stderr, done.stdout.encode(), done.stderr.encode()):
        assert WRITE.encode() not in output
    assert list(places_with(WRITE, tmp_path)) == []


def test_no_child_is_started_that_could_inherit_the_token(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a child process")

    for place, name in ((subprocess, "Popen"), (os, "fork"), (os, "posix_spawn"), (os, "execve")):
        monkeypatch.setattr(place, name, refuse)
    out = make_export(tmp_path / "bob")
    assert CliRunner().invoke(app, ["model", str(out), NAME], catch_exceptions=False).exit_code == 0
    assert {request.token for request in hub.state.requests if request.host == "storage"} <= {None}
    assert list(places_with(WRITE, tmp_path)) == []
