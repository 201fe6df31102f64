"""A finished file or folder gets its final name, and only when all of it is on the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def give_final_name(partial: Path, target: Path) -> None:
    """Flush `partial` (a file, or a folder with all in it) to the disk, and rename it to `target`.

    Without the flush a power cut soon after the rename may leave the name with nothing behind it, since file
    systems write contents later than names (ext4: "delayed allocation"). A folder must not stand at `target`.
    """
    flush(partial)
    rename(partial, target)


def flush(partial: Path) -> None:
    """Wait until the disk has a file, or a folder with all in it; of a large one that takes its time."""
    inside = sorted(partial.rglob("*")) if partial.is_dir() else []
    for path in [*inside, partial]:
        _flush(path)


def rename(partial: Path, target: Path) -> None:
    """Give what was flushed its final name, so that the name lasts as well."""
    partial.replace(target)
    _flush(target.parent)


def give_final_names(partials: Sequence[Path], targets: Sequence[Path]) -> None:
    """The same for files that are one: the first gets its name last, as without it the others are nothing."""
    if len(targets) > 1:
        targets[0].unlink(missing_ok=True)  # or an older one would go with the new others
    for partial, target in reversed(list(zip(partials, targets, strict=True))):
        give_final_name(partial, target)


def _flush(path: Path) -> None:
    """fsync(2); of a folder, it makes the names in it last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
