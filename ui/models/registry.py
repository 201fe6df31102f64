"""The models of a server: the catalog to choose from and the pool of loaded ones; async access to both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import SamplingParams
from engine.errors import EngineError, foreseen
from engine.serving.model_pool import ModelPool
from engine.serving.protocols import ChatBackend, ChatStream, SupportsStart
from engine.types import ModelInfo, ProgressCallback, PromptInput, no_progress
from ui.models.catalog import Catalog, OpenGguf
from ui.models.files import CatalogEntry
from ui.models.weights_hash import FileChange, WeightsHashes


@dataclass(frozen=True)
class Models:
    """The models on offer and those that are loaded.

    `described` is the default model's info, if it was read before loading it; `hashes` watch the files.
    """

    catalog: Catalog
    pool: ModelPool
    described: ModelInfo | None = None
    hashes: WeightsHashes = field(default_factory=WeightsHashes)

    def change(self, key: str) -> FileChange | None:
        """Return what was found wrong with the files of a loaded model. Never waits."""
        if key not in self.pool.loaded():
            return None
        with self.pool.use(key) as backend:
            return self.hashes.change_of(backend)

    def default_info(self) -> ModelInfo:
        """Return the default model's info, loading the model if needed. Raises the pool's errors."""
        if self.described is not None:
            return self.described
        with self.pool.use() as backend:
            return backend.info

    def admit(self, wanted: object, own_machine: bool, progress: ProgressCallback = no_progress) -> str:
        """Return the key of a chosen or typed model, and make it available in the pool. As Catalog.admit."""
        key = self.catalog.admit(wanted, own_machine, progress)
        self.pool.register(key)
        return key

    def file(self, key: str) -> Path | None:
        """Return the file of a model's weights; None for a Hub model that is not loaded."""
        if (local := self.catalog.file(key)) is not None or key not in self.pool.loaded():
            return local
        with self.pool.use(key) as backend:
            path = Path(backend.info.path)
        return path if path.is_file() else None


def models_of(
    catalog: Catalog,
    open_gguf: OpenGguf,
    max_loaded: int = 2,
    described: ModelInfo | None = None,
    on_change: Callable[[FileChange], None] = lambda change: None,
) -> Models:
    """Return the models of a catalog, none loaded yet; `described` as in Models.

    `on_change` is called when a model's file is not the one that its manifest describes, or was loaded.
    """
    hashes = WeightsHashes(on_change)

    def open_model(key: str, progress: ProgressCallback) -> ChatBackend:
        backend = catalog.open(key, open_gguf, progress)
        hashes.of(backend)
        return backend

    pool = ModelPool(
        open_model,
        catalog.keys(),
        catalog.default,
        max_loaded=max_loaded,
    )
    return Models(catalog, pool, described, hashes)


def one_model(backend: ChatBackend) -> Models:
    """Return an open backend as the only model."""
    name = Path(backend.info.path).stem
    catalog = Catalog([CatalogEntry(name, name, backend.info.path)])
    pool = ModelPool(lambda *_: backend, catalog.keys(), catalog.default)
    pool.load()
    return Models(catalog, pool)


@asynccontextmanager
async def acquire_model(pool: ModelPool, key: str | None = None) -> AsyncIterator[ChatBackend]:
    """Hold the model of `key` (None: the default) for the `with` block, loading it if needed.

    Waiting takes no thread. Cancelling one waiting task does not stop the load for others. Raises the errors
    of `ModelPool.use`, and `Unforeseen`.
    """
    lease = pool.acquire(key)
    loading = asyncio.wrap_future(lease.backend)
    try:
        yield await _loaded(loading)
    finally:
        lease.release()


async def _loaded(loading: asyncio.Future[ChatBackend]) -> ChatBackend:
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        loading.add_done_callback(_ignore_error)
        raise
    except EngineError:
        raise
    except Exception as error:
        raise foreseen(error) from error


async def start_stream(backend: ChatBackend, prompt: PromptInput, sampling: SamplingParams) -> ChatStream:
    """Start an answer and wait until it is queued, without blocking the event loop.

    If the task is cancelled meanwhile, so is the stream. Raises the EngineErrors of `stream`, and
    `Unforeseen`.
    """
    try:
        return await _start_stream(backend, prompt, sampling)
    except EngineError:
        raise
    except Exception as error:
        raise foreseen(error) from error


async def _start_stream(backend: ChatBackend, prompt: PromptInput, sampling: SamplingParams) -> ChatStream:
    if isinstance(backend, SupportsStart):
        stream, accepted = backend.start(prompt, sampling)
        queued = asyncio.wrap_future(accepted)
        try:
            await asyncio.shield(queued)
        except asyncio.CancelledError:
            queued.add_done_callback(_ignore_error)
            stream.cancel()
            raise
        return stream
    starting = asyncio.ensure_future(asyncio.to_thread(backend.stream, prompt, sampling))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_cancel_stream)
        raise


def _ignore_error(loading: asyncio.Future[Any]) -> None:
    """Retrieve an error that no task waits for any more: asyncio would log it otherwise."""
    if not loading.cancelled():
        loading.exception()


def _cancel_stream(starting: asyncio.Future[ChatStream]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().cancel()
