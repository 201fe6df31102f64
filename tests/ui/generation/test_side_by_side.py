"""Side-by-side answers, with fake backends."""

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


def side_by_side(pool: ModelPool, *keys: str) -> SideBySide:
    return SideBySide(pool, keys, ASK, SamplingParams())  # type: ignore[arg-type]  # a literal's type


async def all_of(
    comparison: SideBySide, together: bool = True, then: Callable[[SideBySide], None] | None = None
) -> list[list[Column]]:
    seen = []
    async with aclosing(comparison.run(together, interval=0.001)) as updates:
        async for columns in updates:
            seen.append(columns)
            if then is not None:
                then(comparison)
    return seen


def texts(columns: list[Column]) -> list[str]:
    return [column.progress.text if column.progress else "" for column in columns]


def num_running(columns: list[Column]) -> int:
    return sum(
        column.progress is not None and bool(column.progress.text) and not column.done for column in columns
    )


def test_all_stream_at_once_and_room_is_made_afterwards() -> None:
    backends = {key: FakeBackend(f"{key} says one two three four five six", pause=0.01) for key in "abc"}
    pool = pool_of(backends)
    seen = asyncio.run(all_of(side_by_side(pool, "c", "a", "b")))
    assert texts(seen[-1]) == [f"{key} says one two three four five six" for key in "cab"]
    assert all(column.done for column in seen[-1]) and not any(column.done for column in seen[0])
    assert max(map(num_running, seen)) > 1
    assert len(pool.loaded()) == 1
    pool.close()


def test_in_turns_only_one_streams_at_a_time() -> None:
    pool = pool_of({key: FakeBackend("one two three", pause=0.05) for key in "ab"})
    seen = asyncio.run(all_of(side_by_side(pool, "a", "b"), together=False))
    assert max(map(num_running, seen)) == 1 and texts(seen[-1]) == ["one two three"] * 2
    pool.close()


def test_one_that_fails_says_so_and_the_others_go_on() -> None:
    backends = {"a": FakeBackend("fine"), "half": FakeBackend("half", error=EngineStopped("it died"))}
    backends["full"] = FakeBackend()
    backends["full"].refuse = QueueFull("it is full")
    pool = pool_of(backends)
    columns = asyncio.run(all_of(side_by_side(pool, "broken", "full", "half", "a")))[-1]
    errors = [column.progress and column.progress.error for column in columns]
    assert [str(error or "") for error in errors] == [
        "broken.gguf does not load",
        "it is full",
        "it died",
        "",
    ]
    assert texts(columns) == ["", "", "half", "fine"] and all(column.done for column in columns)
    pool.close()


def test_stop_keeps_what_was_said_and_skips_who_waits_for_a_turn() -> None:
    backends = {key: FakeBackend("word " * 500, pause=0.002) for key in "ab"}
    pool = pool_of(backends)

    def stop_soon(comparison: SideBySide) -> None:
        if backends["a"].streams:
            comparison.cancel()

    last = asyncio.run(all_of(side_by_side(pool, "a", "b"), together=False, then=stop_soon))[-1]
    assert last[0].progress is not None and last[0].progress.reason == "cancelled"
    assert last[1].stopped and not backends["b"].streams
    pool.close()


def test_stop_does_not_wait_for_a_load_and_leaving_frees_the_engines() -> None:
    backends = {key: FakeBackend("word " * 500, pause=0.002) for key in "ab"}
    pool = pool_of(backends)
    comparison = side_by_side(pool, "a", "b")
    comparison.cancel()
    assert all(column.stopped for column in asyncio.run(all_of(comparison))[-1])

    async def leave() -> None:
        updates = side_by_side(pool, "a", "b").run(interval=0.001)
        async for columns in updates:
            if num_running(columns) == 2:
                break
        await updates.aclose()
        await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert all(stream.cancelled for backend in backends.values() for stream in backend.streams)
    assert sum(entry.users for entry in pool._entries.values()) == 0
    pool.close()
