"""What was found out about a file on this machine, kept in the cache folder: the next start asks nobody."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import shards
from engine.native import build_identity, cpu_identity
from places import cache_folder

_FORMAT = 4  # raise it when what is remembered changes its meaning


def memo_of(kind: str, model: Path, *more: object, cache: Path | None = None) -> Path:
    """Where it is kept; `more` is all that changes it, beside these very files, the CPU and the libraries."""
    parts: list[object] = [_FORMAT]
    for file in shards.files(model):
        parts += [file.resolve(), (stat := file.stat()).st_size, stat.st_mtime_ns]
    parts += [*more, cpu_identity(), build_identity()]
    key = hashlib.sha256(repr(tuple(parts)).encode()).hexdigest()[:32]
    return (cache or cache_folder()) / f"{kind}-{key}.json"


def recall(memo: Path) -> Any:
    """The JSON that was kept, or None."""
    try:
        return json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(memo: Path, found: object) -> None:
    """Keep something as JSON, if the folder can be written to."""
    beside = memo.with_name(f"{memo.name}.{os.getpid()}")
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(found), encoding="utf-8")
        beside.replace(memo)
    except OSError:
        return  # a read-only home only costs the next start a probe
