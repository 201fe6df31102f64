"""SHA-256 of a model's files: recorded with each answer, and compared with what a manifest says of them.

Hashes are cached on disk by path, size and times.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from common.certificate import NAME as CERTIFICATE
from common.certificate import load_certificate
from common.errors import InputError
from common.files import load_json, write_atomically
from common.paths import cache_folder
from engine.serving.protocols import ChatBackend
from ggufio import shards
from ui.i18n.words import ENGLISH, Translator

_BLOCK_BYTES = 1 << 22
_MANIFEST = "manifest.json"
_POLL_SECONDS = 5.0  # between two looks at the files of the loaded models
_SHOWN = 12  # digits of a hash


@dataclass(frozen=True)
class FileChange:
    """A file of a model that is not the one that its `record` describes or, without one, that was loaded."""

    file: str
    record: str = ""
    expected: str = ""
    actual: str = ""

    def text(self, t: Translator = ENGLISH) -> str:
        """Return what is wrong and what to do, in one line."""
        if not self.record:
            return t("models.changed_in_use", file=self.file)
        expected, actual = self.expected[:_SHOWN], self.actual[:_SHOWN]
        return t("models.changed", file=self.file, record=self.record, expected=expected, actual=actual)


@dataclass
class _Watched:
    """A loaded model: its files, the record of each, their stats when it was loaded, and what was found."""

    files: Sequence[Path]
    records: Mapping[Path, tuple[str, str]] = field(default_factory=dict)
    stats: Sequence[os.stat_result] = ()
    hash: str = ""
    change: FileChange | None = None
    computed: threading.Event = field(default_factory=threading.Event)


class WeightsHashes:
    """The files of loaded models: each hashed once, in a background thread, and watched while in use."""

    def __init__(self, on_change: Callable[[FileChange], None] = lambda change: None) -> None:
        """`on_change` is called once for each model with a changed file, from any thread."""
        self._on_change = on_change
        self._watched: WeakKeyDictionary[ChatBackend, _Watched] = WeakKeyDictionary()
        self._polls = False
        self._lock = threading.RLock()

    def of(self, backend: ChatBackend) -> str:
        """Return the hash of a model's files, including its adapter's; "" until it is known. Never waits.

        It is that of the files at the first call: a file that is replaced later is not the one that the model
        was loaded from.
        """
        return self._watch(backend).hash

    def change_of(self, backend: ChatBackend) -> FileChange | None:
        """Return the first change found in a model's files. Costs one stat(2) a file, and never waits."""
        watched = self._watch(backend)
        if watched.change is None and watched.stats and (changed := _changed_file(watched)):
            self._report(watched, FileChange(changed.name))
        return watched.change

    def wait(self, backend: ChatBackend, seconds: float) -> None:
        """Wait until a model's files are compared with the record of them, if there is one."""
        watched = self._watch(backend)
        if watched.records:
            watched.computed.wait(seconds)

    def _watch(self, backend: ChatBackend) -> _Watched:
        """Return what is known of a model's files; the first call begins to hash and to watch them."""
        with self._lock:
            if (watched := self._watched.get(backend)) is not None:
                return watched
            files = all_shards([Path(name) for name in (backend.info.path, backend.info.adapter) if name])
            watched = _Watched(files)
            with suppress(OSError):  # a file that cannot be read: its answers are saved without a hash
                watched.stats = [file.stat() for file in files]
                watched.records = {file: record for file in files if (record := _record_of(file))}
                threading.Thread(target=self._compute, args=(watched,), daemon=True).start()
            if not self._polls:
                self._polls = True
                threading.Thread(target=_poll, args=(weakref.ref(self),), daemon=True).start()
            self._watched[backend] = watched
            return watched

    def _compute(self, watched: _Watched) -> None:
        _lower_priority()
        try:
            value = cached_hash(watched.files)
            change = _difference(watched.records)
            if _changed_file(watched) is None:
                if change is not None:
                    self._report(watched, change)
                watched.hash = value
        except OSError:  # removed meanwhile
            return
        finally:
            watched.computed.set()

    def _report(self, watched: _Watched, change: FileChange) -> None:
        with self._lock:
            is_new, watched.change = watched.change is None, watched.change or change
        if is_new:
            self._on_change(change)

    def poll(self) -> None:
        """Look at the files of all loaded models; hash again those that may have been written unseen."""
        with self._lock:
            backends = list(self._watched.items())
        for backend, watched in backends:
            if self.change_of(backend) is None and watched.hash and (file := _rewritten_file(watched)):
                self._report(watched, FileChange(file.name))


def _poll(reference: weakref.ref[WeightsHashes]) -> None:
    """Look at the files every few seconds, as long as somebody holds their hashes."""
    while (hashes := reference()) is not None:
        hashes.poll()
        del hashes
        time.sleep(_POLL_SECONDS)


def _lower_priority() -> None:
    """Let this thread yield to those that answer; on Linux a thread has its own priority."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _changed_file(watched: _Watched) -> Path | None:
    """Return the first file that was written, replaced or removed since the model was loaded."""
    for file, before in zip(watched.files, watched.stats, strict=True):
        try:
            now = file.stat()
        except OSError:
            return file
        if _key(now)[:-1] != _key(before)[:-1]:
            return file
    return None


def _rewritten_file(watched: _Watched) -> Path | None:
    """Return the first file that has new bytes under its old time of writing, not just a new link or mode."""
    for file, before in zip(watched.files, watched.stats, strict=True):
        with suppress(OSError):
            if file.stat().st_ctime_ns != before.st_ctime_ns and cached_hash(watched.files) != watched.hash:
                return file
    return None


def _difference(records: Mapping[Path, tuple[str, str]]) -> FileChange | None:
    """Return the first file whose hash is not the recorded one. Raises OSError."""
    for file, (record, expected) in records.items():
        actual = cached_hash([file])
        if actual != expected.lower():
            return FileChange(file.name, record, expected, actual)
    return None


def _record_of(file: Path) -> tuple[str, str] | None:
    """Return the name of the record beside a file that describes it, and the SHA-256 in it."""
    manifest = load_json(file.with_name(_MANIFEST))
    outputs = manifest.get("outputs") if isinstance(manifest, dict) else None
    for output in outputs if isinstance(outputs, list) else []:
        if isinstance(output, dict) and output.get("file") == file.name and output.get("sha256"):
            return _MANIFEST, str(output["sha256"])
    try:
        certificate = load_certificate(file.with_name(CERTIFICATE), strict=False)
    except InputError:
        return None
    entry = certificate.entry(file.name) if certificate else None
    return (CERTIFICATE, entry.sha256) if entry else None


def all_shards(paths: Sequence[Path]) -> list[Path]:
    """Return the files of models, each with all its shards."""
    return [file for path in paths for file in shards.files(path)]


def identity(files: Sequence[Path]) -> str:
    """Return a key that changes with the files' paths, sizes and times. Raises OSError."""
    stats = [[str(file.resolve()), *_key(file.stat())] for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:32]


def _key(stat: os.stat_result) -> tuple[int, ...]:
    """Return size, time of writing, inode, and last the time that no program can set."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


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
        write_atomically(entry, value)
    return value


def hash_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, or of the concatenation of several. Raises OSError."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
