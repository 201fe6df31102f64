from __future__ import annotations

from engine.config import SamplingParams
from engine.core.engine import Engine
from engine.core.stats import EngineStats, at_rest, total
from engine.serving.prometheus import exposition, registry
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import GREEDY, run


def test_what_was_done_is_counted() -> None:
    engine = Engine(FakeRunner(), slots=2, context=200, queue=4, batch=32)
    run(engine, engine.add(1, prompt("abc"), GREEDY))
    one = SamplingParams(temperature=0, max_tokens=1)
    run(engine, engine.add(2, [*prompt("abc"), *map(ord, "cba"), *prompt("x")], one))
    events = engine.add(3, prompt("z" * 100), GREEDY)
    engine.step()
    assert engine.stats().running == 1
    engine.cancel(3)
    run(engine, events)
    stats = engine.stats()
    assert (stats.requests, stats.cancelled, stats.running, stats.waiting) == (3, 1, 0, 0)
    assert stats.generated_tokens == 4 and stats.cached_tokens == 7
    assert stats.prefilled_tokens == 4 + 2 + 32
    assert stats.steps == 4 + 1 + 1 and stats.occupancy == 0.5
    assert 0 < stats.model_seconds < stats.busy_seconds and 0 < stats.python_share < 1


def test_an_idle_conversation_that_loses_its_slot_is_counted() -> None:
    engine = Engine(FakeRunner(), slots=1, context=200, queue=4, batch=32)
    for number, text in enumerate(("aaaa", "bbbb", "cccc")):
        run(engine, engine.add(number, prompt(text), SamplingParams(temperature=0)))
    assert engine.stats().evictions == 2


def test_occupancy_is_of_the_slots_that_were_there_whatever_was_loaded_or_closed() -> None:
    full, idle = EngineStats(slots=4, steps=10, occupied=40, offered=40), EngineStats(slots=4)
    assert total([full, full]).occupancy == total([full, idle]).occupancy == 1
    assert total([at_rest(full)]).occupancy == 1


def test_prometheus_reads_it() -> None:
    stats = EngineStats(slots=4, running=2, requests=7, steps=10, occupied=20, offered=40)
    text = exposition(registry(lambda: stats)).decode()
    assert "gguf_chat_running 2.0" in text and "gguf_chat_requests_total 7.0" in text
    assert "gguf_chat_occupancy 0.5" in text


def test_two_backends_do_not_share_a_registry() -> None:
    one, two = (registry(lambda n=n: EngineStats(running=n)) for n in (1, 2))
    assert b"running 1.0" in exposition(one) and b"running 2.0" in exposition(two)
