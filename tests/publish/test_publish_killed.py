"""Commands that are killed in the middle of an upload or a download, and run again; a token in no place."""

from __future__ import annotations

import os
import subprocess
import threading
import time
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


def test_a_killed_download_goes_on_where_it_was(
    hub: RunningHub, tmp_path: Path, root: Path, python: str
) -> None:
    content = b"GGUF" + os.urandom(24_000_000)
    hub.state.add_repository("you/model", {"m-Q4_0.gguf": content})
    fault = hub.state.fail("GET /object", cut=23_000_000, hold=threading.Event())
    environment = {
        **os.environ,
        **hub.environment(WRITE),
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [python, "app.py", "you/model", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert fault.reached.wait(60)
    end = time.monotonic() + 30
    while not (sizes := [path.stat().st_size for path in tmp_path.rglob("*.incomplete")]) or not sizes[0]:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=20)
    assert not list(tmp_path.rglob("*.gguf"))
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 2 and "m-Q4_0.gguf" in done.stderr.splitlines()[-1], done.stderr
    (path,) = tmp_path.rglob("*.gguf")
    assert path.read_bytes() == content
    parts = [request.part for request in hub.state.requests if request.path.startswith("/object")]
    assert len(parts) == 2 and parts[1] is not None
    start = int(parts[1].removeprefix("bytes=").partition("-")[0])
    assert sizes[0] <= start <= 23_000_000
    assert list(places_with(WRITE, tmp_path)) == []
