"""Opens GGUFs, and LoRA adapters over them: weights that are in memory already are not loaded again."""

from __future__ import annotations

import weakref
from collections import defaultdict
from pathlib import Path

from engine.backend import ModelInfo
from engine.description import describe
from engine.errors import EngineStopped
from engine.free_memory import check_room, free_memory
from engine.local import LocalBackend
from engine.reach import Reach, part, unwatched
from engine.settings import EngineSettings


class Opener:
    """Opens models with the same settings, all from one thread (see engine.pool)."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._opened: dict[Path, weakref.WeakSet[LocalBackend]] = defaultdict(weakref.WeakSet)

    def __call__(self, path: Path, adapter: Path | None = None, reach: Reach = unwatched) -> LocalBackend:
        """The model of a file, with an adapter's GGUF on it if one is given. Raises as LocalBackend does."""
        opened = self._adapted(path, adapter, reach) if adapter is not None else self._open(path, reach)
        self._opened[path].add(opened)
        return opened

    def describe(self, path: Path) -> ModelInfo:
        """What is known of a model before it is opened. Raises ModelError or BackendError."""
        return describe(path, self._settings).info

    def _open(self, path: Path, reach: Reach) -> LocalBackend:
        """Load weights, if there is room beside those in memory; the only model always has its try."""
        if any(self._opened.values()):
            check_room(path, free_memory())
        return LocalBackend.open(path, self._settings, reach)

    def _adapted(self, path: Path, adapter: Path, reach: Reach) -> LocalBackend:
        for there in list(self._opened[path]):
            try:
                return there.with_adapter(adapter, reach=reach)
            except EngineStopped:  # it was closed, and only lingers until it is collected
                continue
        with self._open(path, part(reach, 0.0, 0.6)) as plain:
            return plain.with_adapter(adapter, reach=part(reach, 0.6, 1.0))
