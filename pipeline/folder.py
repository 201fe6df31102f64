"""A folder that appears whole or not at all: written beside its place, then renamed into it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError
from pipeline.final_name import flush, rename


@contextmanager
def published_folder(out: Path) -> Iterator[Path]:
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
    flush(partial)
    try:
        if out.exists():
            out.rename(old)
        rename(partial, out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
