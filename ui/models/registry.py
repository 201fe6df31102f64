"""The models of a page: the list that people choose from, and the pool that loads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.config import SamplingParams
from engine.serving.model_pool import ModelPool
from engine.serving.protocols import ChatBackend, ChatStream
from engine.types import Message, ModelInfo, ProgressCallback, no_progress
from ui.models.catalog import Catalog, OpenGguf
from ui.models.files import CatalogEntry


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

    def admit(self, wanted: object, own_machine: bool, progress: ProgressCallback = no_progress) -> str:
        """The key of what a visitor chose or typed, which may be borrowed then. As Catalog.admit."""
        key = self.catalog.admit(wanted, own_machine, progress)
        self.pool.register(key)
        return key

    def file(self, key: str) -> Path | None:
        """The file of a model's weights; None as long as it was not fetched from the Hub and loaded."""
        if (found := self.catalog.file(key)) is not None or key not in self.pool.loaded():
            return found
        with self.pool.use(key) as backend:
            path = Path(backend.info.path)
        return path if path.is_file() else None


def models_of(
    catalog: Catalog, open_gguf: OpenGguf, max_loaded: int = 2, first: ModelInfo | None = None
) -> Models:
    """The models of a catalog, none of them loaded yet; `first` is as in Models."""
    pool = ModelPool(
        lambda key, progress: catalog.open(key, open_gguf, progress),
        catalog.keys(),
        catalog.first,
        max_loaded=max_loaded,
    )
    return Models(catalog, pool, first)


def one_model(backend: ChatBackend) -> Models:
    """A backend that is there already, as the only choice."""
    name = Path(backend.info.path).stem
    catalog = Catalog([CatalogEntry(name, name, backend.info.path)])
    pool = ModelPool(lambda *_: backend, catalog.keys(), catalog.first)
    pool.load()
    return Models(catalog, pool)


@asynccontextmanager
async def serving(pool: ModelPool, key: str | None = None) -> AsyncIterator[ChatBackend]:
    """Lend the model of `key` (None: the default), loaded if need be; many may wait, and none takes a thread.

    Raises as `ModelPool.use`. Who is cancelled while it loads leaves the load to the others.
    """
    lease = pool.acquire(key)
    loading = asyncio.wrap_future(lease.backend)
    try:
        yield await asyncio.shield(loading)
    except asyncio.CancelledError:
        loading.add_done_callback(_forget)
        raise
    finally:
        lease.release()


async def started(backend: ChatBackend, messages: Sequence[Message], sampling: SamplingParams) -> ChatStream:
    """As `ChatBackend.stream`, in a thread: a long prompt takes a while to tokenize.

    Who is cancelled meanwhile leaves no answer behind.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(backend.stream, messages, sampling))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_stop)
        raise


def _forget(loading: asyncio.Future[ChatBackend]) -> None:
    """Look at why a model does not load that nobody waits for: asyncio logs what nobody has looked at."""
    if not loading.cancelled():
        loading.exception()


def _stop(starting: asyncio.Future[ChatStream]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().cancel()
