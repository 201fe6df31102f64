"""Input files that a user names, hashes, cached JSON; and atomic files and folders.

A final name appears only when its content is on disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import InputError


def open_input(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError, also for any other kind: a pipe may never end."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def read_input(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises OSError."""
    with open_input(path) as file:
        return file.read()


def read_json_input(path: Path) -> Any:
    """Return the JSON in a regular file. Raises OSError, and ValueError also for deep nesting."""
    text = read_input(path).decode("utf-8")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a temporary file and rename it: a crash or a full disk leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        beside.write_text(text, encoding="utf-8")
        publish_file(beside, path)
    finally:
        beside.unlink(missing_ok=True)  # exists only after a failure


def load_json(path: Path) -> Any:
    """Return the JSON in a cache file; None when it is missing or damaged."""
    try:
        return read_json_input(path)
    except (OSError, ValueError):
        return None


def store_json(path: Path, value: object) -> None:
    """Write a cache file as JSON, atomically, and its folder if needed. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value))


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers of a full disk, and of a full quota."""

_DISK_FULL_TEXTS = ("no space left", "os error 28", "quota exceeded", "file write failed")
"""How the libraries that write tensors say so, in errors of their own."""

_NEARLY_FULL = 16 << 20


def is_disk_full(error: BaseException | None, folder: Path) -> bool:
    """Return whether the error, or one that led to it, is of a full disk; what did not fit may be gone."""
    if shutil.disk_usage(folder if folder.exists() else folder.parent).free < _NEARLY_FULL:
        return True
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in DISK_FULL or any(text in str(error).lower() for text in _DISK_FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def publish_file(partial: Path, target: Path) -> None:
    """Flush `partial` (a file, or a folder with its content) to the disk, and rename it to `target`.

    Without the flush, a power cut soon after the rename may leave an empty file, since file systems write
    contents later than names (ext4: "delayed allocation"). `target` must not be an existing folder.
    """
    fsync_path(partial)
    fsync_rename(partial, target)


def fsync_path(partial: Path) -> None:
    """Flush a file, or a folder with its content, to the disk; a large one takes a while."""
    inside = sorted(partial.rglob("*")) if partial.is_dir() else []
    for path in [*inside, partial]:
        _flush(path)


def fsync_rename(partial: Path, target: Path) -> None:
    """Rename a flushed file or folder to its final name, and flush the name too."""
    partial.replace(target)
    _flush(target.parent)


def publish_files(partials: Sequence[Path], targets: Sequence[Path]) -> None:
    """Publish the files of one model; the first gets its name last, as the others are useless without it."""
    if len(targets) > 1:
        targets[0].unlink(missing_ok=True)  # or an older one would be combined with the new others
    for partial, target in reversed(list(zip(partials, targets, strict=True))):
        publish_file(partial, target)


def _flush(path: Path) -> None:
    """fsync(2); for a folder, it flushes the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file, which is removed at the end; one left by a kill is taken over.

    Raises InputError with the text `busy` where another process holds it, or where it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): choose another place with --out"
        ) from None
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy) from None
        if not os.fstat(lock.fileno()).st_nlink:  # its owner ended between the two lines above
            raise InputError(busy)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, which replaces `out` when the block succeeds.

    An existing `out` is replaced; the caller has asked for permission. When the block raises (also on
    Ctrl-C), `out` is unchanged. A kill leaves a `.NAME.partial`, which the next run removes. Raises
    InputError where nothing can be written.
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
    # A folder cannot be renamed onto a non-empty one, so the old one is renamed away first, for the instant
    # between two renames.
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
