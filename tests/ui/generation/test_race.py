"""Several models asked at once, over backends without a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from engine.config import SamplingParams
from engine.errors import EngineStopped, ModelError, QueueFull
from engine.serving.model_pool import ModelPool
from engine.types import ProgressCallback
from tests.ui.fake_backend import FakeBackend
from ui.generation.side_by_side import Column, SideBySide

ASK = [{"role": "user", "content": "hello"}]


def pool_of(backends: dict[str, FakeBackend]) -> ModelPool:
    def open_model(key: str, _: ProgressCallback) -> FakeBackend:
        if key == "broken":
            raise ModelError("broken.gguf does not load")
        return backends[key]

    return ModelPool(open_model, ["broken", *backends], "broken", max_loaded=1)


def race(pool: ModelPool, *keys: str) -> SideBySide:
    return SideBySide(pool, keys, ASK, SamplingParams())  # type: ignore[arg-type]  # a literal's type


async def all_of(
    running: SideBySide, together: bool = True, then: Callable[[SideBySide], None] | None = None
) -> list[list[Column]]:
    seen = []
    async with aclosing(running.run(together, interval=0.001)) as updates:
        async for lanes in updates:
            seen.append(lanes)
            if then is not None:
                then(running)
    return seen


def texts(lanes: list[Column]) -> list[str]:
    return [lane.progress.text if lane.progress else "" for lane in lanes]


def under_way(lanes: list[Column]) -> int:
    return sum(lane.progress is not None and bool(lane.progress.text) and not lane.done for lane in lanes)


def test_all_stream_at_once_and_room_is_made_afterwards() -> None:
    backends = {key: FakeBackend(f"{key} says one two three four five six", pause=0.01) for key in "abc"}
    pool = pool_of(backends)
    seen = asyncio.run(all_of(race(pool, "c", "a", "b")))
    assert texts(seen[-1]) == [f"{key} says one two three four five six" for key in "cab"]
    assert all(lane.done for lane in seen[-1]) and not any(lane.done for lane in seen[0])
    assert max(map(under_way, seen)) > 1
    assert len(pool.loaded()) == 1
    pool.close()


def test_in_turns_only_one_streams_at_a_time() -> None:
    pool = pool_of({key: FakeBackend("one two three", pause=0.05) for key in "ab"})
    seen = asyncio.run(all_of(race(pool, "a", "b"), together=False))
    assert max(map(under_way, seen)) == 1 and texts(seen[-1]) == ["one two three"] * 2
    pool.close()


def test_one_that_fails_says_so_and_the_others_go_on() -> None:
    backends = {"a": FakeBackend("fine"), "half": FakeBackend("half", error=EngineStopped("it died"))}
    backends["full"] = FakeBackend()
    backends["full"].refuse = QueueFull("it is full")
    pool = pool_of(backends)
    lanes = asyncio.run(all_of(race(pool, "broken", "full", "half", "a")))[-1]
    assert [str(lane.progress.error) if lane.progress and lane.progress.error else "" for lane in lanes] == [
        "broken.gguf does not load",
        "it is full",
        "it died",
        "",
    ]
    assert texts(lanes) == ["", "", "half", "fine"] and all(lane.done for lane in lanes)
    pool.close()


def test_stop_keeps_what_was_said_and_skips_who_waits_for_a_turn() -> None:
    backends = {key: FakeBackend("word " * 500, pause=0.002) for key in "ab"}
    pool = pool_of(backends)

    def stop_soon(running: SideBySide) -> None:
        if backends["a"].streams:
            running.cancel()

    last = asyncio.run(all_of(race(pool, "a", "b"), together=False, then=stop_soon))[-1]
    assert last[0].progress is not None and last[0].progress.reason == "cancelled"
    assert last[1].stopped and not backends["b"].streams
    pool.close()


def test_stop_does_not_wait_for_a_load_and_leaving_frees_the_engines() -> None:
    backends = {key: FakeBackend("word " * 500, pause=0.002) for key in "ab"}
    pool = pool_of(backends)
    running = race(pool, "a", "b")
    running.cancel()
    assert all(lane.stopped for lane in asyncio.run(all_of(running))[-1])

    async def leave() -> None:
        updates = race(pool, "a", "b").run(interval=0.001)
        async for lanes in updates:
            if under_way(lanes) == 2:
                break
        await updates.aclose()
        await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert all(stream.cancelled for backend in backends.values() for stream in backend.streams)
    assert sum(entry.users for entry in pool._entries.values()) == 0
    pool.close()
