"""The events of an answer, from the engine's thread into an event loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from engine.errors import EngineStopped
from engine.serving.stream import EventStream, Sink
from engine.types import Finished, RequestStats, TextDelta

END = Finished("stop", RequestStats(1, 0, 3, 0.0, 0.0, 0.0))


class Script:
    """A fake worker; the test calls `emit` in place of the worker's thread."""

    emit: Sink

    def submit(self, sink: Sink) -> int:
        self.emit = sink
        return 1

    def cancel(self, request: int) -> None:
        pass


def stream() -> tuple[EventStream, Script]:
    script = Script()
    return EventStream(script.submit, script.cancel), script


def test_a_batch_is_what_came_meanwhile_and_the_end_is_not_waited_for() -> None:
    answer, script = stream()

    async def read() -> None:
        threading.Timer(0.05, script.emit, [TextDelta("a")]).start()
        assert await answer.batch(0) == [TextDelta("a")]
        script.emit(TextDelta("b"))
        script.emit(TextDelta("c"))
        assert await answer.batch(0.01) == [TextDelta("b"), TextDelta("c")]
        threading.Timer(0.05, script.emit, [END]).start()
        began = time.monotonic()
        assert await answer.batch(60) == [END]
        assert time.monotonic() - began < 30

    asyncio.run(read())


def test_what_came_before_an_error_is_there_before_it() -> None:
    answer, script = stream()

    async def read() -> None:
        script.emit(TextDelta("half an"))
        script.emit(EngineStopped("gone"))
        assert await answer.batch(60) == [TextDelta("half an")]
        with pytest.raises(EngineStopped):
            await answer.batch(60)

    asyncio.run(read())


def test_texts_alone_wake_nobody_who_waits_for_the_end() -> None:
    answer, script = stream()

    async def read() -> None:
        reading = asyncio.create_task(answer.batch(60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        script.emit(TextDelta("a"))
        await asyncio.sleep(0.02)
        assert not reading.done()
        script.emit(END)
        assert await reading == [TextDelta("a"), END]

    asyncio.run(read())
