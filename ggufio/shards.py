"""Sharded GGUFs: paths and sizes of the files that common.shard_names names.

A model is identified by any of its files, and loaded by its first one.
"""

from __future__ import annotations

from pathlib import Path

from common.shard_names import names, split_names, whole_name
from ggufio.errors import MissingShard

__all__ = ["files", "names", "shard_paths", "size", "split_names", "whole_name"]


def shard_paths(path: Path) -> list[Path]:
    """Return all files of the model that `path` belongs to, in order. Raises MissingShard."""
    paths = files(path)
    for file in paths:
        if len(paths) > 1 and not file.is_file():
            raise MissingShard(
                f"{path} is one of {len(paths)} files and {file.name} is missing: put all into one folder"
            )
    return paths


def files(path: Path) -> list[Path]:
    """Return all files of a model, in order, whether they exist or not."""
    return [path.with_name(name) for name in names(path.name)]


def size(path: Path) -> int:
    """Return the size of all existing files of a model in bytes."""
    return sum(file.stat().st_size for file in files(path) if file.exists())
