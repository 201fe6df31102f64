"""The working folder of an export: `.work` in its output folder, locked, removed when empty."""

from __future__ import annotations

import fcntl
import shutil
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import IO

from pipeline.errors import InputError
from pipeline.manifest import Record

WORK, RECORD = ".work", "record.json"
_REPORTS_SIZE = 8 * 2**20
"""Bytes for the small files: records, certificate, report, logs."""


def is_under_way(out: Path) -> bool:
    """Return whether the output folder has an export that was begun and did not end."""
    return (out / WORK / RECORD).exists()


class Workspace:
    """A folder for unfinished files, so that final names are only given to finished ones. Locked."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out / WORK
        self.record = self.folder / RECORD
        self._lock: IO[str] | None = None
        self._created: list[Path] = []

    def __enter__(self) -> Workspace:
        if self._out.exists() and not self._out.is_dir():
            raise InputError(f"--out {str(self._out)!r} is a file: give a folder")
        self._created = [path for path in (self._out, *self._out.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise InputError(f"--out {str(self._out)!r} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(f"another export is writing to {str(self._out)!r}: wait for it to end") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        if isinstance(error, InputError) and not self.record.exists():
            self.clear()  # a rejected input leaves nothing behind
        self._remove_if_empty()
        self._lock.close()

    def full_precision(self, file: str, record: Record) -> Path | None:
        """Return the finished full-precision GGUF of an interrupted run; None without one."""
        path = self.folder / file
        if path.is_file() and path.stat().st_size == record.model.get("full_precision_bytes"):
            return path
        return None

    def clear(self) -> None:
        """Remove everything in it except the lock."""
        for path in self.folder.iterdir():
            if path.name == "lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _remove_if_empty(self) -> None:
        if [path.name for path in self.folder.iterdir()] != ["lock"]:
            return
        shutil.rmtree(self.folder)
        for path in self._created:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise InputError unless the disk of `folder` has `needed` bytes free, plus some for reports."""
    free, needed = shutil.disk_usage(folder).free, needed + _REPORTS_SIZE
    if needed > free:
        raise InputError(
            f"{purpose} needs {ceil(needed / 2**20)} MiB in {folder}, and {free // 2**20} MiB are free: "
            "make room, or give --out on another disk"
        )
