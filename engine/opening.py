"""Opens GGUFs, and LoRA adapters over them: weights that are in memory already are not loaded again."""

from __future__ import annotations

import weakref
from pathlib import Path

from engine.errors import EngineStopped
from engine.free_memory import check_room, free_memory
from engine.local import LocalBackend
from engine.settings import EngineSettings


class Opener:
    """Opens models with the same settings, all from one thread (see engine.pool)."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._plain: weakref.WeakValueDictionary[Path, LocalBackend] = weakref.WeakValueDictionary()

    def __call__(self, path: Path, adapter: Path | None = None) -> LocalBackend:
        """The model of a file, with an adapter's GGUF on it if one is given. Raises as LocalBackend does."""
        if adapter is not None:
            return self._adapted(path, adapter)
        self._plain[path] = opened = self._open(path)
        return opened

    def _open(self, path: Path) -> LocalBackend:
        """Load weights, if there is room beside those in memory; the only model always has its try."""
        if self._plain and path.is_file():
            check_room(path, free_memory())
        return LocalBackend.open(path, self._settings)

    def _adapted(self, path: Path, adapter: Path) -> LocalBackend:
        try:
            if (plain := self._plain.get(path)) is not None:
                return plain.with_adapter(adapter)
        except EngineStopped:  # it was closed, and only lingers until it is collected
            pass
        with self._open(path) as plain:
            return plain.with_adapter(adapter)
