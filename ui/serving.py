"""A model of the pool for the time of an `async with`: the event loop goes on while it loads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.backend import ChatBackend
from engine.pool import ModelPool


@asynccontextmanager
async def serving(pool: ModelPool, key: str | None = None) -> AsyncIterator[ChatBackend]:
    """Lend the model of `key` (None: the default), loaded if need be; many may wait, and none takes a thread.

    Raises as `ModelPool.use`. Who is cancelled while it loads leaves the load to the others.
    """
    loan = pool.lend(key)
    try:
        yield await asyncio.shield(asyncio.wrap_future(loan.backend))
    finally:
        loan.give_back()
