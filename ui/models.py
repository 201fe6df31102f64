"""The models of a page: the list that people choose from, and the pool that loads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.backend import ChatBackend, ModelInfo
from engine.pool import ModelPool
from engine.reach import Reach, unwatched
from ui.catalog import Catalog, OpenGguf
from ui.model_files import Entry


@dataclass(frozen=True)
class Models:
    """What may be chosen, and what is loaded; `first` is the default as it is known before it has loaded."""

    catalog: Catalog
    pool: ModelPool
    first: ModelInfo | None = None

    def default_info(self) -> ModelInfo:
        """The default model. Where nothing is known of it yet, this loads it, and raises as the pool does."""
        if self.first is not None:
            return self.first
        with self.pool.use() as backend:
            return backend.info

    def admit(self, wanted: object, own_machine: bool, reach: Reach = unwatched) -> str:
        """The key of what a visitor chose or typed, which may be borrowed then. As Catalog.admit."""
        key = self.catalog.admit(wanted, own_machine, reach)
        self.pool.offer(key)
        return key

    def file(self, key: str) -> Path | None:
        """The file of a model's weights; None as long as it was not fetched from the Hub and loaded."""
        if (found := self.catalog.file(key)) is not None or key not in self.pool.loaded():
            return found
        with self.pool.use(key) as backend:
            path = Path(backend.info.path)
        return path if path.is_file() else None


def models_of(
    catalog: Catalog, open_gguf: OpenGguf, most_loaded: int = 2, first: ModelInfo | None = None
) -> Models:
    """The models of a catalog, none of them loaded yet; `first` is as in Models."""
    pool = ModelPool(
        lambda key, reach: catalog.open(key, open_gguf, reach),
        catalog.keys(),
        catalog.first,
        most_loaded=most_loaded,
    )
    return Models(catalog, pool, first)


def one_model(backend: ChatBackend) -> Models:
    """A backend that is there already, as the only choice."""
    name = Path(backend.info.path).stem
    catalog = Catalog([Entry(name, name, backend.info.path)])
    pool = ModelPool(lambda *_: backend, catalog.keys(), catalog.first)
    pool.load()
    return Models(catalog, pool)
