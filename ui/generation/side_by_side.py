"""The same conversation answered by several models side by side, as one stream of snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

from engine.config import SamplingParams
from engine.errors import EngineError
from engine.serving.model_pool import ModelPool
from engine.serving.protocols import ChatBackend, ChatStream
from engine.types import Message
from ui.generation.streaming import INTERVAL, Progress, snapshots
from ui.models.registry import serving, started


@dataclass(frozen=True)
class Column:
    """How far one model is: None until it begins. `stopped` when it was stopped before that."""

    key: str
    progress: Progress | None = None
    stopped: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.stopped or (self.progress is not None and self.progress.done)


class SideBySide:
    """Runs once. Models load one after another, and all of them are there before the first answer begins.

    `together` they share the CPU; else they take turns, and each one's speed is its own.
    """

    def __init__(
        self, pool: ModelPool, keys: Sequence[str], messages: list[Message], sampling: SamplingParams
    ) -> None:
        self._pool, self._messages, self._sampling = pool, messages, sampling
        self._lanes = [Column(key) for key in keys]
        self._streams: list[ChatStream] = []
        self._stopped = False
        self._changed = asyncio.Event()

    def cancel(self) -> None:
        """Stop all answers; what they have said stays. Returns at once."""
        self._stopped = True
        self._changed.set()
        for stream in self._streams:
            stream.cancel()

    async def run(
        self, together: bool = True, interval: float = INTERVAL
    ) -> AsyncGenerator[list[Column], None]:
        """The lanes, first at once and then at most every `interval` seconds; in the last ones all are done.

        When the reader goes away, all answers are cancelled and the models are given back.
        """
        running = asyncio.create_task(self._run(together, interval))
        try:
            while not running.done():
                yield list(self._lanes)
                waiting = asyncio.create_task(self._changed.wait())
                await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                self._changed.clear()
                if self._stopped and not self._streams:  # they still load, and nobody waits for it any more
                    self._lanes = [lane if lane.done else replace(lane, stopped=True) for lane in self._lanes]
                    yield list(self._lanes)
                    return
                await asyncio.wait({running}, timeout=interval)
            await running  # a bug must be heard
            yield list(self._lanes)
        finally:
            running.cancel()
            self.cancel()

    async def _run(self, together: bool, interval: float) -> None:
        async with AsyncExitStack() as stack:
            backends = [await self._borrow(stack, lane) for lane in range(len(self._lanes))]
            turn = asyncio.Semaphore(len(backends) if together else 1)
            await asyncio.gather(*(self._answer(lane, b, turn, interval) for lane, b in enumerate(backends)))

    async def _borrow(self, stack: AsyncExitStack, lane: int) -> ChatBackend | None:
        if self._stopped:
            return None
        try:
            return await stack.enter_async_context(serving(self._pool, self._lanes[lane].key))
        except EngineError as error:
            self._show(lane, Progress(error=error))
            return None

    async def _answer(
        self, lane: int, backend: ChatBackend | None, turn: asyncio.Semaphore, interval: float
    ) -> None:
        async with turn:
            if self._stopped and not self._lanes[lane].done:
                self._lanes[lane] = replace(self._lanes[lane], stopped=True)
            if backend is None or self._lanes[lane].done:
                return
            try:
                stream = await started(backend, self._messages, self._sampling)
            except EngineError as error:
                self._show(lane, Progress(error=error))
                return
            self._streams.append(stream)
            if self._stopped:
                stream.cancel()
            async with aclosing(snapshots(stream, interval)) as updates:
                async for progress in updates:
                    self._show(lane, progress)

    def _show(self, lane: int, progress: Progress) -> None:
        self._lanes[lane] = replace(self._lanes[lane], progress=progress)
        self._changed.set()
