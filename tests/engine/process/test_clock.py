"""Work under a clock: Python code is interrupted, C code is given up."""

from __future__ import annotations

import hashlib
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from engine.errors import EngineError, RequestError
from engine.process.clock import Clock, Task


def start(clock: Clock, work: Any) -> tuple[Task[Any], SimpleQueue[Any]]:
    """Start work; what becomes of it arrives in the queue."""
    out: SimpleQueue[Any] = SimpleQueue()
    task = clock.start(work, out.put, out.put, lambda: out.put("interrupted"))
    return task, out


def loop() -> None:
    while True:
        pass


def swallow() -> None:
    while True:
        try:
            loop()
        except Exception:  # noqa: BLE001 - as a template's filter may do
            continue


@pytest.fixture
def stuck() -> threading.Event:
    return threading.Event()


@pytest.fixture
def clock(stuck: threading.Event) -> Clock:
    return Clock(stuck.set, seconds=0.2, in_c=0.3)


def test_work_in_time_gives_its_result_and_its_error(clock: Clock) -> None:
    assert start(clock, lambda: 42)[1].get(timeout=10) == 42

    def refuse() -> None:
        raise RequestError("too long")

    assert str(start(clock, refuse)[1].get(timeout=10)) == "too long"
    error = start(clock, lambda: 1 // 0)[1].get(timeout=10)
    assert isinstance(error, EngineError) and "ZeroDivisionError" in str(error)


@pytest.mark.parametrize("work", [loop, swallow])
def test_python_code_out_of_time_is_interrupted(clock: Clock, stuck: threading.Event, work: Any) -> None:
    _, out = start(clock, work)
    assert out.get(timeout=30) == "interrupted" and out.empty() and not stuck.is_set()


def test_a_cancelled_task_ends_at_once_whatever_its_limit(stuck: threading.Event) -> None:
    entered = threading.Event()

    def work() -> None:
        entered.set()
        loop()

    task, out = start(Clock(stuck.set, seconds=1000), work)
    assert entered.wait(10)
    task.interrupt()
    assert out.get(timeout=30) == "interrupted"
    task.interrupt()  # no effect after the end
    task.thread.join(10)
    assert out.empty() and not task.thread.is_alive()


def test_many_loops_at_once_all_end(clock: Clock) -> None:
    outs = [start(clock, loop)[1] for _ in range(20)]
    assert [out.get(timeout=60) for out in outs] == ["interrupted"] * 20


def test_c_code_that_does_not_return_is_given_up(clock: Clock, stuck: threading.Event) -> None:
    # one call of C, which releases the interpreter's lock as llama.cpp's calls do, and takes seconds
    start(clock, lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 5_000_000))
    assert stuck.wait(60)
