from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from common.files import atomic_directory, publish_file, write_atomically
from pipeline.cli.console import report_errors
from pipeline.errors import InputError
from pipeline.exporter.workspace import require_space


@pytest.fixture
def file_operations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of flushes and renames, in order; they are still carried out."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def note_replace(path: Path, target: Path) -> Path:
        done.append(f"{path.name} -> {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    return done


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, file_operations: list[str]) -> None:
    (tmp_path / "half").write_text("whole")
    (tmp_path / "out").write_text("old")
    publish_file(tmp_path / "half", tmp_path / "out")
    assert file_operations == ["flush half", "half -> out", f"flush {tmp_path.name}"]
    assert (tmp_path / "out").read_text() == "whole" and not (tmp_path / "half").exists()


def test_all_of_a_folder_is(tmp_path: Path, file_operations: list[str]) -> None:
    with atomic_directory(tmp_path / "base") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("1")
        (folder / "b").write_text("2")
    assert set(file_operations[:4]) == {"flush inner", "flush a", "flush b", "flush .base.partial"}
    assert file_operations[4:] == [".base.partial -> base", f"flush {tmp_path.name}"]
    assert (tmp_path / "base" / "inner" / "a").read_text() == "1"


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupted_swap_leaves_the_old_folder(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a").write_text("old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[moment], interrupt)
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "base") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "base" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_manifest_is(tmp_path: Path, file_operations: list[str]) -> None:
    write_atomically(tmp_path / "manifest.json", "{}")
    assert file_operations[0].startswith("flush .manifest.json") and file_operations[1].endswith(
        "-> manifest.json"
    )


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "manifest.json").write_text("old")
    with pytest.raises(SystemExit, match="1"), report_errors():
        write_atomically(tmp_path / "manifest.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == "old"
    error = capsys.readouterr().err
    assert error == "error: the disk is full: make room, and run the same command again\n"


def test_space_is_told_so_that_the_numbers_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=400 * 2**20 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    require_space(tmp_path, 391 * 2**20, "exporting")  # plus 8 MiB for the reports
    with pytest.raises(InputError, match=r"needs 400 MiB in .* and 399 MiB are free: make room"):
        require_space(tmp_path, 392 * 2**20, "exporting")
