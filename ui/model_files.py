"""The GGUF files of a folder as people know them: one entry for each model, with its name, type and size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError
from shards import size
from ui.gguf_choice import adapters_in, models_in
from ui.gguf_hub import stem_of
from ui.status import size_text

_TYPE = re.compile(r"[-._](I?Q\d\w*|BF16|F16|F32|MXFP4\w*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """A model that may be asked for by `key`; `source` is a path or a Hub name, `adapter` a LoRA over it.

    Visitors see `key` and `label`, so neither holds a path of this machine. `named` tells that the owner
    chose the name.
    """

    key: str
    label: str
    source: str
    adapter: Path | None = None
    named: bool = False


def entry_of(path: Path, adapter: Path | None = None, name: str | None = None) -> Entry:
    """The entry of a file that is there."""
    stem = stem_of(path)
    short, kind = name_and_type(path)
    facts = [(name or short) + (f" + {adapter.stem}" if adapter else ""), kind]
    label = " · ".join(filter(None, [*facts, size_text(size(path) + (size(adapter) if adapter else 0))]))
    key = name or (f"{stem}+{adapter.stem}" if adapter else stem)
    return Entry(key, label, str(path), adapter, named=name is not None)


def name_and_type(path: Path) -> tuple[str, str]:
    """A file's name without the type at its end, and that type or "": ("bob", "Q4_K_M")."""
    stem = stem_of(path)
    found = _TYPE.search(stem)
    return (stem[: found.start()], found[1].upper()) if found else (stem, "")


def entries_below(folder: Path) -> list[Entry]:
    """The models of a folder and of the folders in it, then the adapters that lie beside them.

    A folder whose export is not finished, or that cannot be read, is left out.
    """
    entries: list[Entry] = []
    for place in _places(folder):
        try:
            models = models_in(place)
        except ModelError:  # a damaged manifest: nobody knows which of its files are whole
            continue
        entries += [entry_of(path) for path in models]
        entries += [entry_of(path, adapter) for adapter in adapters_in(place) for path in models]
    return entries


def size_of(entry: Entry) -> int:
    """In bytes, with all shards and the adapter."""
    return size(Path(entry.source)) + (size(entry.adapter) if entry.adapter else 0)


def _places(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield folder
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
