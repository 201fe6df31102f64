"""SHA-256 of a model's files, recorded with each answer; cached on disk by path, size and time."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

from common.paths import cache_folder
from engine.serving.protocols import ChatBackend
from ggufio import shards

_BLOCK_BYTES = 1 << 22


class WeightsHashes:
    """Hashes of loaded models, each computed once in a background thread."""

    def __init__(self) -> None:
        self._identities: WeakKeyDictionary[ChatBackend, str] = WeakKeyDictionary()  # "" for unreadable files
        self._hashes: dict[str, str] = {}  # by identity
        self._lock = threading.Lock()

    def of(self, backend: ChatBackend) -> str:
        """Return the hash of a model's files, including its adapter's; "" until it is known. Never waits.

        It is that of the files at the first call: a file that is replaced later is not the one that the model
        was loaded from.
        """
        paths = [Path(name) for name in (backend.info.path, backend.info.adapter) if name]
        with self._lock:
            if backend not in self._identities:
                self._identities[backend] = ""
                with suppress(OSError):
                    self._identities[backend] = identity(all_shards(paths))
            key = self._identities[backend]
            if key and key not in self._hashes:
                self._hashes[key] = ""
                threading.Thread(target=self._compute, args=(key, paths), daemon=True).start()
            return self._hashes.get(key, "")

    def _compute(self, key: str, paths: list[Path]) -> None:
        with suppress(OSError):  # a file that cannot be read any more: answers are saved without a hash
            files = all_shards(paths)
            value = cached_hash(files)
            if identity(files) == key:
                with self._lock:
                    self._hashes[key] = value


def all_shards(paths: Sequence[Path]) -> list[Path]:
    """Return the files of models, each with all its shards."""
    return [file for path in paths for file in shards.files(path)]


def identity(files: Sequence[Path]) -> str:
    """Return a key that changes with the files' paths, sizes and times. Raises OSError."""
    stats = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:32]


def cached_hashes(path: Path) -> dict[str, str]:
    """Return the hash of each file of a model by its name, the first shard first. Raises OSError."""
    return {file.name: cached_hash([file]) for file in shards.files(path)}


def cached_hash(files: Sequence[Path]) -> str:
    """Return `hash_of`, from the cache while the files' `identity` is the same. Raises OSError."""
    entry = cache_folder() / f"sha256-{identity(files)}"
    if entry.exists():
        return entry.read_text(encoding="utf-8")
    value = hash_of(files)
    with suppress(OSError):  # without a writable cache the next start computes it again
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.with_suffix(f".{threading.get_ident()}")
        partial.write_text(value, encoding="utf-8")
        partial.replace(entry)
    return value


def hash_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, or of the concatenation of several. Raises OSError."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
