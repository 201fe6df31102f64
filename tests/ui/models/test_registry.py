"""Loading and starting from an event loop, with cancelled tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from engine.config import SamplingParams
from engine.serving.model_pool import ModelPool
from engine.types import Message
from tests.engine.fake_models import FakeModel, Opener, settle
from tests.ui.fake_backend import FakeBackend, FakeStream
from ui.models.registry import acquire_model, start_stream


def test_an_event_loop_waits_for_many_and_a_cancelled_one_harms_nobody() -> None:
    opener = Opener()
    pool = ModelPool(opener, ["b", "c"], "b")  # type: ignore[arg-type]  # the fakes cannot chat
    first, *others, later = asyncio.run(_all_ask(pool, opener))
    assert isinstance(first, asyncio.CancelledError) and isinstance(later, asyncio.CancelledError)
    assert len(others) == 99 and len(set(others)) == 1 and isinstance(others[0], FakeModel)
    settle(pool)
    assert opener.log == ["open b", "open nothing"]
    assert sum(place.users for place in pool._entries.values()) == 0
    pool.close()


def test_the_event_loop_goes_on_while_a_prompt_is_read_and_who_leaves_stops_its_answer() -> None:
    backend = SlowBackend()

    async def leave() -> None:
        asked = asyncio.create_task(
            start_stream(backend, [{"role": "user", "content": "long"}], SamplingParams())
        )
        await asyncio.to_thread(backend.reads.wait)
        asked.cancel()
        await asyncio.wait({asked})
        assert asked.cancelled() and not backend.streams
        backend.gate.set()
        while not (backend.streams and backend.streams[0].cancelled):
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(leave(), 10))


class SlowBackend(FakeBackend):
    """A backend whose `stream` waits for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.gate = threading.Event(), threading.Event()

    def stream(self, messages: Sequence[Message], sampling: SamplingParams) -> FakeStream:
        self.reads.set()
        assert self.gate.wait(5)
        return super().stream(messages, sampling)


async def _all_ask(pool: ModelPool, opener: Opener) -> list[object]:
    async def ask(key: str) -> object:
        async with acquire_model(pool, key) as backend:
            return backend

    opener.gate.clear()
    asked = [asyncio.create_task(ask("b")) for _ in range(100)]
    later = asyncio.create_task(ask("c"))
    await asyncio.sleep(0)
    asked[0].cancel()
    later.cancel()  # before its load has begun
    await asyncio.sleep(0)
    opener.gate.set()
    return await asyncio.gather(*asked, later, return_exceptions=True)
