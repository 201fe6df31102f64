"""Asks the worker process of the Inspect view, which is started when it is needed."""

from __future__ import annotations

import threading
import time
from functools import lru_cache
from pathlib import Path

from common.dataclass_json import from_json
from common.worker_process import Message, WorkerDied, WorkerProcess
from ggufio import shards
from ggufio.errors import GgufError
from ui.pages.inspect.contents import Contents, TensorFigures

_SECONDS = 30.0  # for a file; half a second is normal
_IDLE_SECONDS = 60.0


class Inspector:
    """One worker process for all visitors; it answers one question at a time and ends when it is idle."""

    def __init__(self, seconds: float = _SECONDS, idle_seconds: float = _IDLE_SECONDS) -> None:
        """`seconds` is the time limit of a question."""
        self._seconds, self._idle_seconds = seconds, idle_seconds
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._idle: threading.Timer | None = None
        self._contents = lru_cache(maxsize=8)(self._read)
        self._figures = lru_cache(maxsize=64)(self._measure)

    def contents(self, path: Path) -> Contents:
        """Return the contents of a model, merged from all its files. Raises UserError."""
        return self._contents(_state(path), path)

    def tensor(self, path: Path, name: str) -> TensorFigures:
        """Return a tensor's figures. Raises UserError, also for an unknown name."""
        return self._figures(_state(path), path, name)

    def close(self) -> None:
        """End the worker; the next question starts another."""
        with self._lock:
            self._end()

    def _read(self, _state: object, path: Path) -> Contents:
        return from_json(Contents, self._ask(path, None))

    def _measure(self, _state: object, path: Path, name: str) -> TensorFigures:
        return from_json(TensorFigures, self._ask(path, name))

    def _ask(self, path: Path, tensor: str | None) -> Message:
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            if self._worker is None:
                self._worker = WorkerProcess("ui.pages.inspect.worker")
            deadline = time.monotonic() + self._seconds

            def check_time() -> None:
                if time.monotonic() > deadline:
                    raise TimeoutError

            try:
                return self._worker.run({"file": str(path), "tensor": tensor}, on_tick=check_time)
            except WorkerDied as error:
                self._end()
                raise GgufError(
                    f"{path.name} cannot be inspected: it ends the process that reads it"
                ) from error
            except TimeoutError as error:
                self._end()
                raise GgufError(
                    f"{path.name} cannot be inspected: reading it took more than {self._seconds:g} seconds"
                ) from error
            finally:
                self._idle = threading.Timer(self._idle_seconds, self.close)
                self._idle.daemon = True
                self._idle.start()

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


_State = tuple[tuple[str, int, int], ...]


def _state(path: Path) -> _State:
    """Return the sizes and times of all GGUFs in the folder: a reference may appear beside a model."""
    own = set(shards.files(path))
    state = []
    for file in sorted({*own, *path.parent.glob("*.gguf")}):
        try:
            stat = file.stat()
        except OSError as error:
            if file in own:
                raise GgufError(f"{path.name} cannot be read: {error.strerror or error}") from error
            continue  # another file that was deleted just now, or a link to nothing
        state.append((file.name, stat.st_size, stat.st_mtime_ns))
    return tuple(state)
