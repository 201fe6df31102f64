"""Gradio's folder of uploads: removed with its server, or at the next start."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gradio import routes

from common.worker_process import python_path
from ui.gradio_patches import TRACKED_UPLOADS, bound_upload_progress
from ui.server.upload_folder import LOCK, PREFIX, VARIABLE, upload_folder

SERVER = """
from ui.server.upload_folder import upload_folder
with upload_folder() as folder:
    print(folder, flush=True)
    input()
"""


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_a_killed_servers_files_go_at_the_next_start_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": python_path()}
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    running, killed = (Path(server.stdout.readline().strip()) for server in servers if server.stdout)
    for folder in (running, killed):
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
        (folder / "hash").mkdir()
        (folder / "hash" / "history.json").write_text("[]")
    others = [tmp_path / "hash", tmp_path / f"{PREFIX}without-a-lock", tmp_path / "elsewhere"]
    for folder in others:
        folder.mkdir()
    (others[2] / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(others[2])
    servers[1].kill()
    servers[1].wait()
    with upload_folder() as own:
        assert os.environ[VARIABLE] == str(own)
        assert running.is_dir() and not killed.exists() and (running / "hash" / "history.json").exists()
        assert all(folder.is_dir() for folder in others) and (others[2] / LOCK).exists()
    assert os.environ[VARIABLE] == str(tmp_path) and not own.exists()
    servers[0].communicate("\n", timeout=10)
    assert names(tmp_path) == sorted(["elsewhere", "hash", f"{PREFIX}link", f"{PREFIX}without-a-lock"])


def test_the_folder_is_elsewhere_where_the_named_one_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with upload_folder() as own:
        assert own.parent == tmp_path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"), upload_folder():
        pass


def test_the_progress_of_few_uploads_is_kept() -> None:
    bound_upload_progress()
    uploads = routes.file_upload_statuses
    for number in range(2 * TRACKED_UPLOADS):
        uploads.track(f"upload {number}")
        uploads.append(f"upload {number}", "a.json", b"123")
    assert len(uploads._statuses) == len(uploads._signals) == TRACKED_UPLOADS
    last = f"upload {2 * TRACKED_UPLOADS - 1}"
    assert uploads.pop(last).chunk_size == 3 and not uploads.is_done(last)
    assert asyncio.run(uploads.is_tracked(last))

    async def ask_for_many() -> None:
        asked = [asyncio.ensure_future(uploads.is_tracked(f"unknown {n}")) for n in range(500)]
        await asyncio.sleep(0)
        assert len(uploads._signals) == TRACKED_UPLOADS
        for one in asked:
            one.cancel()

    asyncio.run(ask_for_many())
