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
        self._known: dict[tuple[Path, ...], str] = {}
        self._lock = threading.Lock()

    def of(self, *paths: Path) -> str:
        """The hash of a model, with its adapter's file if it has one, or "" as long as it is not known.

        Returns at once.
        """
        with self._lock:
            if paths not in self._known:
                self._known[paths] = ""
                threading.Thread(target=self._learn, args=paths, daemon=True).start()
            return self._known[paths]

    def _learn(self, *paths: Path) -> None:
        try:
            found = recall(*paths)
        except OSError:  # the file is gone or cannot be read: its answers are kept without a hash
            return
        with self._lock:
            self._known[paths] = found


def recall(*paths: Path) -> str:
    """The hash, from the cache folder as long as all files have the same size and time. Raises OSError."""
    files = [path.with_name(name) for path in paths for name in shards(path.name)]
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
    """SHA-256 of a file; of several, that of all their bytes in order. Raises OSError."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(_BLOCK):
                whole.update(block)
    return whole.hexdigest()
