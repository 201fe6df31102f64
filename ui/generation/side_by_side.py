"""Side-by-side answers of several models to the same conversation, as one stream of snapshots."""

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
from ui.models.registry import acquire_model, start_stream


@dataclass(frozen=True)
class Column:
    """One model's progress, None until it starts; `stopped` when it was stopped before that."""

    key: str
    progress: Progress | None = None
    stopped: bool = False

    @property
    def done(self) -> bool:
        """True when the model's answer has ended."""
        return self.stopped or (self.progress is not None and self.progress.done)


class SideBySide:
    """One comparison; `run` may be called once.

    The models are loaded one after another, all before the first answer starts. With `together` they answer
    at the same time and share the CPU; otherwise one after another, and each one's speed is its own.
    """

    def __init__(
        self, pool: ModelPool, keys: Sequence[str], messages: list[Message], sampling: SamplingParams
    ) -> None:
        self._pool, self._messages, self._sampling = pool, messages, sampling
        self._columns = [Column(key) for key in keys]
        self._streams: list[ChatStream] = []
        self._stopped = False
        self._changed = asyncio.Event()

    def cancel(self) -> None:
        """Stop all answers, keeping their text. Returns at once."""
        self._stopped = True
        self._changed.set()
        for stream in self._streams:
            stream.cancel()

    async def run(
        self, together: bool = True, interval: float = INTERVAL
    ) -> AsyncGenerator[list[Column], None]:
        """Yield the columns, first at once and then at most every `interval` seconds, until all are done.

        When the reader goes away, all answers are cancelled and the models are released.
        """
        running = asyncio.create_task(self._run(together, interval))
        try:
            while not running.done():
                yield list(self._columns)
                waiting = asyncio.create_task(self._changed.wait())
                await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                self._changed.clear()
                if self._stopped and not self._streams:  # stopped while loading: do not wait for the load
                    self._columns = [
                        column if column.done else replace(column, stopped=True) for column in self._columns
                    ]
                    yield list(self._columns)
                    return
                await asyncio.wait({running}, timeout=interval)
            await running  # raises its unexpected errors
            yield list(self._columns)
        finally:
            running.cancel()
            self.cancel()

    async def _run(self, together: bool, interval: float) -> None:
        async with AsyncExitStack() as stack:
            backends = [await self._acquire(stack, index) for index in range(len(self._columns))]
            turn = asyncio.Semaphore(len(backends) if together else 1)
            answers = (self._answer(index, backend, turn, interval) for index, backend in enumerate(backends))
            await asyncio.gather(*answers)

    async def _acquire(self, stack: AsyncExitStack, index: int) -> ChatBackend | None:
        if self._stopped:
            return None
        try:
            return await stack.enter_async_context(acquire_model(self._pool, self._columns[index].key))
        except EngineError as error:
            self._show(index, Progress(error=error))
            return None

    async def _answer(
        self, index: int, backend: ChatBackend | None, turn: asyncio.Semaphore, interval: float
    ) -> None:
        async with turn:
            if self._stopped and not self._columns[index].done:
                self._columns[index] = replace(self._columns[index], stopped=True)
            if backend is None or self._columns[index].done:
                return
            try:
                stream = await start_stream(backend, self._messages, self._sampling)
            except EngineError as error:
                self._show(index, Progress(error=error))
                return
            self._streams.append(stream)
            if self._stopped:
                stream.cancel()
            async with aclosing(snapshots(stream, interval, max_tokens=self._sampling.max_tokens)) as updates:
                async for progress in updates:
                    self._show(index, progress)

    def _show(self, index: int, progress: Progress) -> None:
        self._columns[index] = replace(self._columns[index], progress=progress)
        self._changed.set()
