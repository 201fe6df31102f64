"""SHA-256 of the weights that answer: kept with each answer, so that a reader can tell which file it was."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

from common.files import write_atomically
from common.paths import cache_folder
from engine.serving.protocols import ChatBackend
from ggufio import shards

_BLOCK = 1 << 22  # bytes read at once


class WeightsHashes:
    """Hashes by file, each worked out once, in a thread of its own, and remembered in the cache folder."""

    def __init__(self) -> None:
        self._files: WeakKeyDictionary[ChatBackend, str] = WeakKeyDictionary()  # what `identity` told of each
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def of(self, backend: ChatBackend) -> str:
        """The hash of a model's files as they were when it was first asked about; "" until it is known.

        With its adapter's file, if it has one. Returns at once. A file that is written anew later is another
        one, which this model has not read.
        """
        paths = [Path(name) for name in (backend.info.path, backend.info.adapter) if name]
        with self._lock:
            if backend not in self._files:
                self._files[backend] = _identity_or_none(*paths)
            file = self._files[backend]
            if file and file not in self._known:
                self._known[file] = ""
                threading.Thread(target=self._learn, args=(file, *paths), daemon=True).start()
            return self._known.get(file, "")

    def _learn(self, file: str, *paths: Path) -> None:
        with suppress(OSError):  # the file is gone or cannot be read: its answers are kept without a hash
            found = cached_hash(*paths)
            if identity(*paths) == file:
                with self._lock:
                    self._known[file] = found


def _identity_or_none(*paths: Path) -> str:
    try:
        return identity(*paths)
    except OSError:
        return ""


def identity(*paths: Path) -> str:
    """Which files they are: others under the same names have other sizes or times. Raises OSError."""
    return _identity(_files(paths))


def _identity(files: list[Path]) -> str:
    seen = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]


def cached_hash(*paths: Path) -> str:
    """The hash, from the cache folder as long as all files have the same size and time. Raises OSError."""
    return _recall(_files(paths))


def cached_hashes(path: Path) -> dict[str, str]:
    """The same for each file of a model by its name, the first first. Raises OSError."""
    return {file.name: _recall([file]) for file in shards.files(path)}


def _recall(files: list[Path]) -> str:
    note = cache_folder() / f"sha256-{_identity(files)}"
    if note.exists():
        return note.read_text(encoding="utf-8")
    found = hash_of(files)
    with suppress(OSError):  # a cache that cannot be written costs the next start a hash
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, found)
    return found


def _files(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in shards.files(path)]


def hash_of(files: list[Path]) -> str:
    """SHA-256 of a file; of several, that of all their bytes in order. Raises OSError."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(_BLOCK):
                whole.update(block)
    return whole.hexdigest()
