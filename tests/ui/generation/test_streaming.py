"""Snapshots of a stream, and streams by tab."""

from __future__ import annotations

import asyncio
import itertools
import time

from engine.errors import EngineError, EngineStopped
from engine.types import Event, TextDelta
from tests.ui.fake_backend import FakeStream, finished
from ui.generation.sessions import ActiveStreams
from ui.generation.streaming import Progress, snapshots


async def collect(stream: FakeStream, interval: float) -> list[tuple[float, Progress]]:
    return [(time.monotonic(), progress) async for progress in snapshots(stream, interval)]


def test_updates_are_throttled_and_nothing_is_lost() -> None:
    texts: list[Event | EngineError] = [TextDelta(str(number % 10)) for number in range(100)]
    seen = asyncio.run(collect(FakeStream([*texts, finished("stop", 100)], 0.004), 0.1))
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(seen)]
    assert 3 <= len(seen) <= 14
    assert min(gaps[1:-1]) >= 0.09  # the first word is shown at once, and the last
    assert seen[-1][1].text == "0123456789" * 10
    assert seen[-1][1].reason == "stop"


def test_a_slow_model_is_shown_at_once() -> None:
    async def first_word_after() -> float:
        start = time.monotonic()
        async for progress in snapshots(
            FakeStream([TextDelta("a"), TextDelta("b"), finished("stop")], 0.3), 0.05
        ):
            if progress.text:
                return time.monotonic() - start
        raise AssertionError("no text")

    assert asyncio.run(first_word_after()) < 0.4


def test_an_error_keeps_the_text_before_it() -> None:
    last = asyncio.run(collect(FakeStream([TextDelta("half an "), EngineStopped("gone")], 0), 0.01))[-1][1]
    assert (last.text, str(last.error), last.done) == ("half an ", "gone", True)


def test_cancelling_the_stream_ends_the_snapshots_with_the_reason() -> None:
    async def run() -> Progress:
        stream = FakeStream([TextDelta("a")] * 1000, 0.01)
        asyncio.get_running_loop().call_later(0.1, stream.cancel)
        return (await collect(stream, 0.02))[-1][1]

    assert asyncio.run(run()).reason == "cancelled"


def test_a_reader_that_goes_away_cancels_the_stream() -> None:
    async def run(stream: FakeStream) -> None:
        updates = snapshots(stream, 0.01)
        await anext(updates)
        await updates.aclose()

    stream = FakeStream([TextDelta("a")] * 1000, 0.01)
    asyncio.run(run(stream))
    assert stream.cancelled


def test_a_task_that_is_cancelled_while_it_waits_cancels_the_stream() -> None:
    async def run(stream: FakeStream) -> None:
        task = asyncio.create_task(collect(stream, 0.01))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})

    stream = FakeStream([TextDelta("a")], 60)  # the first word never comes
    asyncio.run(run(stream))
    assert stream.cancelled


def test_stop_reaches_the_streams_of_one_tab_alone() -> None:
    live, mine, other = ActiveStreams(), FakeStream([], 0), FakeStream([], 0)
    with live.track("me", mine), live.track("you", other):
        live.cancel("me")
        live.cancel("nobody")
        assert (mine.cancelled, other.cancelled, len(live)) == (True, False, 2)
    assert (other.cancelled, len(live)) == (True, 0)
