"""SHA-256 of the weights that answer: kept with each answer, so that a reader can tell which file it was."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from places import cache_folder
from ui.gguf_hub import shards

_BLOCK = 1 << 22  # bytes read at once


class Fingerprints:
    """Hashes by file, each worked out once, in a thread of its own, and remembered in the cache folder."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}
        self._lock = threading.Lock()

    def of(self, path: Path) -> str:
        """The hash, or "" as long as it is not known. Returns at once."""
        with self._lock:
            if path not in self._known:
                self._known[path] = ""
                threading.Thread(target=self._learn, args=(path,), daemon=True).start()
            return self._known[path]

    def _learn(self, path: Path) -> None:
        try:
            found = recall(path)
        except OSError:  # the file is gone or cannot be read: its answers are kept without a hash
            return
        with self._lock:
            self._known[path] = found


def recall(path: Path) -> str:
    """The hash, from the cache folder as long as the file is the same size and time. Raises OSError."""
    return _recall([path.with_name(name) for name in shards(path.name)])


def recall_each(path: Path) -> dict[str, str]:
    """The same for each file of a model by its name, the first first. Raises OSError."""
    return {name: _recall([path.with_name(name)]) for name in shards(path.name)}


def _recall(files: list[Path]) -> str:
    seen = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    note = cache_folder() / f"sha256-{hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]}"
    if note.exists():
        return note.read_text(encoding="utf-8")
    found = hash_of(files)
    note.parent.mkdir(parents=True, exist_ok=True)
    half = note.with_suffix(f".{threading.get_ident()}")
    half.write_text(found, encoding="utf-8")
    half.replace(note)
    return found


def hash_of(files: list[Path]) -> str:
    """SHA-256 of a file; of a model in several files, that of all their bytes in order. Raises OSError."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(_BLOCK):
                whole.update(block)
    return whole.hexdigest()
