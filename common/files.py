"""A finished file or folder gets its final name, and only when all of it is on the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename: a crash or a full disk leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        publish_file(beside, path)
    finally:
        beside.unlink(missing_ok=True)  # no longer there, if all went well


def publish_file(partial: Path, target: Path) -> None:
    """Flush `partial` (a file, or a folder with all in it) to the disk, and rename it to `target`.

    Without the flush a power cut soon after the rename may leave the name with nothing behind it, since file
    systems write contents later than names (ext4: "delayed allocation"). A folder must not stand at `target`.
    """
    fsync_path(partial)
    fsync_rename(partial, target)


def fsync_path(partial: Path) -> None:
    """Wait until the disk has a file, or a folder with all in it; of a large one that takes its time."""
    inside = sorted(partial.rglob("*")) if partial.is_dir() else []
    for path in [*inside, partial]:
        _flush(path)


def fsync_rename(partial: Path, target: Path) -> None:
    """Give what was flushed its final name, so that the name lasts as well."""
    partial.replace(target)
    _flush(target.parent)


def publish_files(partials: Sequence[Path], targets: Sequence[Path]) -> None:
    """The same for files that are one: the first gets its name last, as without it the others are nothing."""
    if len(targets) > 1:
        targets[0].unlink(missing_ok=True)  # or an older one would go with the new others
    for partial, target in reversed(list(zip(partials, targets, strict=True))):
        publish_file(partial, target)


def _flush(path: Path) -> None:
    """fsync(2); of a folder, it makes the names in it last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; when the block ends well, it takes `out`'s place.

    Whatever stood at `out` is replaced: the caller has asked first. When the block raises (Ctrl-C too),
    `out` is as it was. A kill leaves a `.NAME.partial`, which the next run clears. Raises InputError
    where nothing can be written.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another place") from None
    try:
        yield partial
        _swap(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, out: Path) -> None:
    # A folder cannot be renamed onto one that has files in it, so the old one steps aside first, for the
    # instant between two renames.
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    fsync_path(partial)
    try:
        if out.exists():
            out.rename(old)
        fsync_rename(partial, out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
