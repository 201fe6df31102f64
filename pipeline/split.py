"""An export in several files: how large each may be, and which tensors go into which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import shards
from pipeline.errors import InputError

_SIZE = re.compile(r"0*(?P<count>[1-9]\d*)(?P<unit>[MG])", re.IGNORECASE)
_UNITS = {"M": 10**6, "G": 10**9}  # as llama.cpp's gguf-split has them
_MOST = 65_535  # split.count has 16 bits


def parse_size(text: str) -> int:
    """The bytes of "2G" or "500M"; raises InputError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--split-max-size {text!r} is no size: use a number and M or G, as in 2G")
    return int(found["count"]) * _UNITS[found["unit"].upper()]


def shard_paths(path: Path) -> list[Path]:
    """All files of the model that `path` is one of, in order; raises InputError where one is missing."""
    files = shards.files(path)
    for file in files:
        if len(files) > 1 and not file.is_file():
            raise InputError(
                f"{path} is one of {len(files)} files and {file.name} is missing: put all into one folder"
            )
    return files


def group(sizes: Mapping[str, int], limit: int | None) -> list[list[str]]:
    """The tensors of each shard, in their order, as gguf-split puts them: full up to `limit` bytes of data.

    No tensor is cut: one that is larger has a shard for itself.
    """
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if limit is not None and groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    if len(groups) > _MOST:
        raise InputError(
            f"--split-max-size makes {len(groups)} files, and llama.cpp counts to {_MOST}: use more"
        )
    return groups
