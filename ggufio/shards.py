"""Sharded GGUFs: names, paths and sizes, as in llama.cpp: `NAME-00001-of-00003.gguf` and so on.

A model is identified by any of its files, and loaded by its first one.
"""

from __future__ import annotations

import re
from pathlib import Path

from ggufio.errors import MissingShard


def shard_paths(path: Path) -> list[Path]:
    """Return all files of the model that `path` belongs to, in order. Raises MissingShard."""
    paths = files(path)
    for file in paths:
        if len(paths) > 1 and not file.is_file():
            raise MissingShard(
                f"{path} is one of {len(paths)} files and {file.name} is missing: put all into one folder"
            )
    return paths


_NUMBERS = re.compile(r"-\d{5}-of-(?P<count>(?!00000)\d{5})(?=\.gguf)")


def whole_name(name: str) -> str:
    """Return the file name without the shard number."""
    return _NUMBERS.sub("", name)


def names(name: str) -> list[str]:
    """Return the names of all files of a model, in order, given any of them."""
    found = _NUMBERS.search(name)
    return _numbered(whole_name(name), int(found["count"])) if found else [name]


def split_names(whole: str, count: int) -> list[str]:
    """Return the names of the `count` shards of `NAME.gguf`; a single file keeps its name."""
    return [whole] if count == 1 else _numbered(whole, count)


def files(path: Path) -> list[Path]:
    """Return all files of a model, in order, whether they exist or not."""
    return [path.with_name(name) for name in names(path.name)]


def size(path: Path) -> int:
    """Return the size of all existing files of a model in bytes."""
    return sum(file.stat().st_size for file in files(path) if file.exists())


def _numbered(whole: str, count: int) -> list[str]:
    """Return shard names as llama_split_path makes them."""
    stem, ending, rest = whole.rpartition(".gguf")
    return [f"{stem}-{number:05d}-of-{count:05d}{ending}{rest}" for number in range(1, count + 1)]
