from __future__ import annotations

import queue
import threading

import pytest

from engine.config import SamplingParams
from engine.core.engine import Engine
from engine.errors import EngineError, EngineStopped, QueueFull
from engine.serving.worker import Worker
from engine.types import Event, Finished, TextDelta
from tests.engine.fakes import FakeRunner, prompt

GREEDY = SamplingParams(temperature=0)


class Inbox:
    def __init__(self) -> None:
        self.items: queue.SimpleQueue[Event | EngineError] = queue.SimpleQueue()

    def all(self) -> list[Event | EngineError]:
        out: list[Event | EngineError] = []
        while not out or not isinstance(out[-1], Finished | EngineError):
            out.append(self.items.get(timeout=5))
        return out


def _worker(*runners: FakeRunner, capacity: int = 8) -> Worker:
    left = list(runners)
    return Worker(lambda: Engine(left.pop(0), slots=2, context=5000, queue=8, batch=32), capacity=capacity)


def _text(items: list[Event | EngineError]) -> str:
    return "".join(item.delta for item in items if isinstance(item, TextDelta))


def test_answers_reach_their_callers_and_close_ends_the_thread() -> None:
    runner = FakeRunner()
    worker = _worker(runner)
    inboxes = [Inbox() for _ in range(6)]
    for number, inbox in enumerate(inboxes):
        worker.submit(prompt("ab" * number), GREEDY, inbox.items.put)
    assert [_text(inbox.all()) for inbox in inboxes] == ["ba" * number for number in range(6)]
    worker.close()
    assert runner.closed and not worker._thread.is_alive()
    with pytest.raises(EngineStopped):
        worker.submit(prompt("a"), GREEDY, inboxes[0].items.put)


def test_capacity_is_enforced_at_once_and_given_back() -> None:
    runner, gate = FakeRunner(), threading.Event()
    runner.before_decode = lambda: gate.wait(5) and None
    worker = _worker(runner, capacity=1)
    first, second = Inbox(), Inbox()
    worker.submit(prompt("a"), GREEDY, first.items.put)
    with pytest.raises(QueueFull):
        worker.submit(prompt("b"), GREEDY, second.items.put)
    gate.set()
    first.all()
    worker.submit(prompt("b"), GREEDY, second.items.put)
    assert _text(second.all()) == "b"
    worker.close()


def test_cancel_in_prefill_aborts_the_decode_in_progress() -> None:
    runner, entered, gate = FakeRunner(), threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        gate.wait(5)

    runner.before_decode = wait
    worker = _worker(runner)
    inbox = Inbox()
    request = worker.submit(prompt("a" * 1000), GREEDY, inbox.items.put)
    assert entered.wait(5)
    worker.cancel(request)
    assert runner._aborted
    gate.set()
    last = inbox.all()[-1]
    assert isinstance(last, Finished) and last.reason == "cancelled" and runner.computed == 0
    worker.close()


def test_a_stream_may_be_collected_while_the_worker_is_busy_with_another_request() -> None:
    worker = _worker(FakeRunner())

    def collected_meanwhile() -> None:
        with worker._lock:
            worker.cancel(1)

    thread = threading.Thread(target=collected_meanwhile, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    worker.close()


def test_when_the_engine_dies_callers_are_told_and_it_starts_again() -> None:
    broken, sound, gate = FakeRunner(), FakeRunner(), threading.Event()

    def die() -> None:
        gate.wait(5)
        raise RuntimeError("boom")

    broken.before_decode = die
    worker = _worker(broken, sound)
    inboxes = [Inbox(), Inbox(), Inbox()]
    for inbox in inboxes:
        worker.submit(prompt("a"), GREEDY, inbox.items.put)
    gate.set()
    for inbox in inboxes:
        error = inbox.all()[-1]
        assert isinstance(error, EngineStopped) and "boom" in str(error)
    again = Inbox()
    worker.submit(prompt("abc"), GREEDY, again.items.put)
    assert _text(again.all()) == "cba" and broken.closed
    worker.close()


def test_an_engine_that_dies_again_and_again_stays_down() -> None:
    def die() -> None:
        raise RuntimeError("boom")

    runners = [FakeRunner() for _ in range(3)]
    for runner in runners:
        runner.before_decode = die
    worker = _worker(*runners)
    for _ in runners:
        inbox = Inbox()
        worker.submit(prompt("a"), GREEDY, inbox.items.put)
        assert isinstance(inbox.all()[-1], EngineStopped)
    worker._thread.join(5)
    with pytest.raises(EngineStopped, match="stays down"):
        worker.submit(prompt("a"), GREEDY, Inbox().items.put)
    worker.close()
