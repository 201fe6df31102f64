"""Time limits of grammars: C code cannot be interrupted, so its thread is abandoned."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from engine.config import SamplingParams
from engine.core.engine import Engine
from engine.core.prefix_cache import Logits
from engine.errors import QueueFull, TooSlow
from engine.llama.grammar import TimeBudgetThread
from engine.serving.backend import LlamaBackend
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import GREEDY, ask, reason, run, text_of, user


@pytest.fixture(autouse=True)
def no_runaway_is_left_to_the_next_test() -> Iterator[None]:
    """Wait for abandoned threads, which on a busy machine end some time after the test."""
    yield
    end = time.monotonic() + 60
    while TimeBudgetThread.has_runaway() and time.monotonic() < end:
        time.sleep(0.01)
    assert not TimeBudgetThread.has_runaway()


def test_calls_are_answered_and_their_errors_too() -> None:
    thread, ended = TimeBudgetThread(1.0), threading.Event()
    assert thread.call(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0)
    thread.close(ended.set)
    assert ended.wait(5) and not TimeBudgetThread.has_runaway()


def test_what_takes_too_long_is_left_alone_and_cleaned_up_when_it_ends() -> None:
    thread, gate, ended = TimeBudgetThread(0.02), threading.Event(), threading.Event()
    with pytest.raises(TooSlow):
        thread.call(gate.wait)
    thread.close(ended.set)
    assert TimeBudgetThread.has_runaway() and not ended.is_set()
    gate.set()
    thread._thread.join(5)
    assert ended.is_set() and not TimeBudgetThread.has_runaway()


def test_an_answer_whose_grammar_takes_too_long_ends_alone() -> None:
    class Slow(FakeRunner):
        def sample(self, slot: int, output: int = 0, logits: Logits | None = None) -> int:
            if self.started[slot].grammar:
                raise TooSlow
            return super().sample(slot, output, logits)

    engine = Engine(Slow(), slots=2, context=200, queue=4, batch=32)
    events = engine.add(1, prompt("abc"), GREEDY)
    events += engine.add(2, prompt("abc"), SamplingParams(temperature=0, grammar='root ::= "a"'))
    out = run(engine, events)
    assert (text_of(out[1]), reason(out[1])) == ("cba", "stop") and reason(out[2]) == "time"


def test_a_grammar_without_time_ends_its_answer(
    backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.llama.grammar._SECONDS", 0.0)
    text, finished = ask(backend, user("Hi"), SamplingParams(temperature=0, grammar='root ::= "a"'))
    assert (text, finished.reason) == ("", "time")


def test_no_other_grammar_is_taken_while_one_still_runs(backend: LlamaBackend) -> None:
    thread, gate = TimeBudgetThread(0.0), threading.Event()
    with pytest.raises(TooSlow):
        thread.call(gate.wait)
    try:
        with pytest.raises(QueueFull, match="grammar"):
            backend.stream(user("Hi"), SamplingParams(grammar='root ::= "a"'))
    finally:
        gate.set()
        thread.close(lambda: None)
        thread._thread.join(5)
    assert not TimeBudgetThread.has_runaway()
