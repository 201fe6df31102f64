from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from engine.config import EngineConfig, KvType, Limits, SamplingParams
from engine.core.engine import Engine
from engine.errors import RequestError, SettingsError
from engine.serving.backend import LlamaBackend
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import GREEDY, ask, reason, run, text_of, user


def _engine(limits: Limits, clock: float = 0.0) -> Engine:
    ticks = itertools.count(0, clock)
    return Engine(
        FakeRunner(), slots=2, context=200, queue=4, batch=32, limits=limits, clock=lambda: next(ticks)
    )


def test_new_tokens_are_the_smaller_of_both_limits() -> None:
    engine = _engine(Limits(new_tokens=3))
    events = engine.add(1, prompt("abcdef"), GREEDY)
    events += engine.add(2, prompt("abcdef"), SamplingParams(temperature=0, max_tokens=2))
    out = run(engine, events)
    assert (text_of(out[1]), reason(out[1])) == ("fed", "length")
    assert (text_of(out[2]), reason(out[2])) == ("fe", "length")


def test_an_answer_that_takes_too_long_ends_with_what_it_has() -> None:
    engine = _engine(Limits(seconds=30), clock=1.0)
    out = run(engine, engine.add(1, prompt("abcdefgh" * 10), GREEDY))
    assert reason(out[1]) == "time" and 0 < len(text_of(out[1])) < 80
    assert not engine.busy and engine.stats().overdue == 1


def test_a_prompt_that_takes_too_long_ends_too() -> None:
    engine = _engine(Limits(seconds=3), clock=1.0)
    out = run(engine, engine.add(1, prompt("a" * 180), GREEDY))
    assert (reason(out[1]), text_of(out[1])) == ("time", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [("kv_type", "q5_0"), ("max_prompt_tokens", 0), ("max_new_tokens", -1), ("max_seconds", 0.0)],
)
def test_settings_out_of_range(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        EngineConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_quantized_cache_answers_and_limits_hold(smollm2: Path, cache: Path, kv_type: KvType) -> None:
    settings = EngineConfig(
        context=256, slots=2, kv_type=kv_type, max_prompt_tokens=60, max_new_tokens=6, max_seconds=60
    )
    with LlamaBackend.open(smollm2, settings) as backend:
        text, finished = ask(backend, user("What is the capital of France?"))
        assert text and (finished.reason, finished.stats.generated_tokens) == ("length", 6)
        with pytest.raises(RequestError, match="too long"):
            backend.stream(user("word " * 100))
