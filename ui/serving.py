"""A model of the pool, and an answer of it, for event loops, which go on while it loads and reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from engine.backend import ChatBackend, ChatStream
from engine.pool import ModelPool
from engine.request import Message
from engine.settings import SamplingSettings


@asynccontextmanager
async def serving(pool: ModelPool, key: str | None = None) -> AsyncIterator[ChatBackend]:
    """Lend the model of `key` (None: the default), loaded if need be; many may wait, and none takes a thread.

    Raises as `ModelPool.use`. Who is cancelled while it loads leaves the load to the others.
    """
    loan = pool.lend(key)
    loading = asyncio.wrap_future(loan.backend)
    try:
        yield await asyncio.shield(loading)
    except asyncio.CancelledError:
        loading.add_done_callback(_forget)
        raise
    finally:
        loan.give_back()


async def started(
    backend: ChatBackend, messages: Sequence[Message], sampling: SamplingSettings
) -> ChatStream:
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
