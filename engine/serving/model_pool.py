"""ModelPool: several models in one process, loaded on demand and closed least recently used first.

Models load one after another in the pool's thread. A leased model is never closed. Beyond `max_loaded`
models, the least recently requested idle one is closed, but only after the new one has loaded, so that one
more is in memory for a moment. A failed load does not affect other models; a load without waiters stops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.stats import EngineStats, at_rest, total
from engine.errors import EngineStopped, ModelError, QueueFull
from engine.serving.protocols import ChatBackend, SupportsHealth, SupportsStats
from engine.types import ProgressCallback
from ggufio import shards


def check_room(path: Path, free: int | None) -> None:
    """Raise QueueFull if a model's weights exceed the `free` bytes; None skips the check."""
    size = shards.size(path)
    if free is not None and size > free:
        raise QueueFull(
            f"{path.name} needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are free: "
            "try again when fewer models are in use, or choose a smaller one"
        )


@dataclass(eq=False)
class _ModelEntry:
    """One model: loading, loaded or failed. `users` counts its leases, waiting ones too.

    `share` is the progress of its load, 0 to 1.
    """

    backend: Future[ChatBackend] = field(default_factory=Future)
    users: int = 0
    share: float = 0.0

    @property
    def loaded(self) -> bool:
        return self.backend.done() and self.backend.exception() is None

    def on_progress(self, share: float) -> bool:
        """Record the progress of the load; return whether it still has waiters."""
        self.share = max(self.share, share)
        return self.users > 0

    @property
    def failed(self) -> bool:
        """Return whether its engine failed permanently."""
        backend = self.backend.result() if self.loaded else None
        return isinstance(backend, SupportsHealth) and backend.failed

    @property
    def given_up(self) -> bool:
        """Return whether loading it again is pointless."""
        backend = self.backend.result() if self.loaded else None
        return isinstance(backend, SupportsHealth) and backend.given_up


class ModelLease:
    """Keeps a model in memory until `release`; its future `backend` is done when the model has loaded."""

    def __init__(self, entry: _ModelEntry, release: Callable[[_ModelEntry], None]) -> None:
        self.backend = entry.backend
        self._entry: _ModelEntry | None = entry
        self._release = release

    def release(self) -> None:
        """Let the pool close the model. Returns at once; idempotent."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._release(entry)


class ModelPool:
    """Models by key. Safe from any thread; in event loops use `ui.models.registry`."""

    def __init__(
        self,
        open_model: Callable[[str, ProgressCallback], ChatBackend],
        keys: Iterable[str],
        first: str,
        max_loaded: int = 2,
    ) -> None:
        """`open_model(key, progress)` loads a model in the pool's thread; `first` is the default key."""
        assert max_loaded >= 1, max_loaded
        self._open, self._first, self._max_loaded = open_model, first, max_loaded
        self._keys = dict.fromkeys([first, *keys])
        self._entries: dict[str, _ModelEntry] = {}  # the most recently requested last
        self._past = EngineStats()  # counters of closed models
        self._closed = False
        self._lock = threading.RLock()  # reentrant: a completed future calls `release` within it
        self._thread = ThreadPoolExecutor(1, "models")  # loads and closes, one after another

    @property
    def default(self) -> str:
        """Return the key of the default model."""
        return self._first

    def keys(self) -> list[str]:
        """Return the registered keys, the default first."""
        with self._lock:
            return list(self._keys)

    def register(self, key: str) -> None:
        """Allow a key in `acquire`; the caller has checked it."""
        with self._lock:
            self._keys.setdefault(key)

    def loaded(self) -> list[str]:
        """Return the keys of the models in memory, the most recently requested last."""
        with self._lock:
            return [key for key, entry in self._entries.items() if entry.loaded]

    def loading(self, key: str) -> float:
        """Return the progress of a model's load, 0 to 1; 0 for a model that was not requested."""
        with self._lock:
            entry = self._entries.get(key)
            return entry.share if entry is not None else 0.0

    def acquire(self, key: str | None = None) -> ModelLease:
        """Lease a model, the default for None, and start loading it if needed. Returns at once.

        Raises ModelError for an unregistered key, and EngineStopped after `close`. A failed load raises from
        the lease's `backend`.
        """
        key = self._first if key is None else key
        with self._lock:
            if self._closed:
                raise EngineStopped("the models were shut down")
            if key not in self._keys:
                raise ModelError(f"model {key!r} is not offered here: choose one of the list")
            entry = self._entries.pop(key, None)
            if (
                entry is not None and entry.failed and not entry.given_up
            ):  # its users got the error; load it again
                self._retire(entry)
                entry = None
            if entry is None:
                entry = _ModelEntry()
                entry.users = 1
                self._thread.submit(self._load, key, entry)
            else:
                entry.users += 1
            self._entries[key] = entry
        return ModelLease(entry, self._release)

    @contextmanager
    def use(self, key: str | None = None) -> Iterator[ChatBackend]:
        """Yield a model, loaded if needed. Raises as `acquire` and `open_model`."""
        lease = self.acquire(key)
        try:
            yield lease.backend.result()
        finally:
            lease.release()

    def preload(self, key: str | None = None) -> Future[ChatBackend]:
        """Start loading a model without leasing it. Returns at once; raises as `acquire`."""
        lease = self.acquire(key)
        lease.backend.add_done_callback(lambda _: lease.release())
        return lease.backend

    def load(self, key: str | None = None) -> None:
        """Load a model and wait for it. Raises as `use`."""
        self.preload(key).result()

    def failed(self) -> bool:
        """Return whether the default model failed; unless it is given up, `acquire` loads it again."""
        with self._lock:
            entry = self._entries.get(self._first)
            return entry is not None and entry.failed

    def stats(self) -> EngineStats:
        """Return the counters of all models, closed ones included."""
        with self._lock:
            here = [entry.backend.result() for entry in self._entries.values() if entry.loaded]
            past = self._past
        return total([past, *(backend.stats() for backend in here if isinstance(backend, SupportsStats))])

    def close(self) -> None:
        """Close all models, leased ones too (their answers raise EngineStopped), and stop loads."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=True)  # queued loads find the pool closed, and fail
        with self._lock:
            left, self._entries = self._entries, {}
        for entry in left.values():
            entry.backend.result().close()

    def _load(self, key: str, entry: _ModelEntry) -> None:
        """Open the model, in the pool's thread; an error goes to all waiters."""
        try:
            if self._closed:
                raise EngineStopped
            if not entry.users:
                raise EngineStopped(f"nobody waits for model {key!r} any more")
            backend = self._open(key, lambda share: entry.on_progress(share) and not self._closed)
        except Exception as failure:  # noqa: BLE001 - a boundary: every waiter gets the error
            error = EngineStopped("the models were shut down") if self._closed else failure
            with self._lock:
                if self._entries.get(key) is entry:
                    del self._entries[key]
            entry.backend.set_exception(error)
            return
        with self._lock:
            wanted = self._entries.get(key) is entry
            if wanted:
                entry.backend.set_result(backend)
        if not wanted:  # the last waiter left just now
            backend.close()
        self._make_room()

    def _release(self, entry: _ModelEntry) -> None:
        with self._lock:
            entry.users -= 1
            if not entry.users and not entry.backend.done():  # the next `acquire` starts another load
                self._entries = {key: other for key, other in self._entries.items() if other is not entry}
        self._make_room()

    def _make_room(self) -> None:
        """Close the least recently requested idle models beyond `max_loaded`; the latest one stays."""
        with self._lock:
            if self._closed:
                return
            loaded = [key for key, entry in self._entries.items() if entry.loaded]
            idle = [key for key in loaded[:-1] if not self._entries[key].users]
            for key in idle[: max(0, len(loaded) - self._max_loaded)]:
                self._retire(self._entries.pop(key))

    def _retire(self, entry: _ModelEntry) -> None:
        """Close a model without leases, and keep its counters."""
        backend = entry.backend.result()
        if isinstance(backend, SupportsStats):
            self._past = total([self._past, at_rest(backend.stats())])
        # in the pool's thread: no event loop waits for it, and it precedes the next load
        self._thread.submit(backend.close)
