from __future__ import annotations

import asyncio

from engine.pool import ModelPool
from tests.engine.fake_models import FakeModel, Opener, settle
from ui.serving import serving


def test_an_event_loop_waits_for_many_and_a_cancelled_one_harms_nobody() -> None:
    opener = Opener()
    pool = ModelPool(opener, ["b", "c"], "b")  # type: ignore[arg-type]  # no chat is asked for
    first, *others, later = asyncio.run(_all_ask(pool, opener))
    assert isinstance(first, asyncio.CancelledError) and isinstance(later, asyncio.CancelledError)
    assert len(others) == 99 and len(set(others)) == 1 and isinstance(others[0], FakeModel)
    settle(pool)
    assert opener.log == ["open b", "open nothing"]
    assert sum(place.users for place in pool._places.values()) == 0
    pool.close()


async def _all_ask(pool: ModelPool, opener: Opener) -> list[object]:
    async def ask(key: str) -> object:
        async with serving(pool, key) as backend:
            return backend

    opener.gate.clear()
    asked = [asyncio.create_task(ask("b")) for _ in range(100)]
    later = asyncio.create_task(ask("c"))
    await asyncio.sleep(0)
    asked[0].cancel()
    later.cancel()  # its load has not even begun
    await asyncio.sleep(0)
    opener.gate.set()
    return await asyncio.gather(*asked, later, return_exceptions=True)
