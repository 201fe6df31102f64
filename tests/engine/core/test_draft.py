from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineConfig, SamplingParams
from engine.core.engine import Engine
from engine.core.speculative import BatchCostModel, NgramProposer, Proposal, best_length, measure
from engine.core.types import BatchRow
from engine.probe import describe as batch_times
from engine.probe.cpu_backend import probe_model
from engine.probe.describe import batch_costs
from engine.serving.backend import LlamaBackend
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import GREEDY, ask, run, text_of, user

FREE = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}  # a batch of 16 costs what one token does
DEAR = {n: float(n) for n in (1, 2, 4, 8, 16)}


def _engine(runner: FakeRunner, costs: BatchCostModel | None, slots: int = 4) -> Engine:
    return Engine(runner, slots=slots, context=2000, queue=8, batch=64, costs=costs)


def _ids(text: str) -> list[int]:
    return [ord(character) for character in text]


def test_the_longest_and_last_match_is_followed() -> None:
    lookup = NgramProposer(_ids("xabcd1 yabcd2 zabcd"))
    guess = lookup.propose(3)
    assert (guess.tokens, guess.size) == (_ids("2 z"), 4)
    assert NgramProposer(_ids("cd1 xxcd")).propose(2).size == 2
    assert NgramProposer(_ids("abcdefg")).propose(5).tokens == () and not NgramProposer([1]).propose(5).tokens


def test_a_repetition_goes_on_past_its_end() -> None:
    assert NgramProposer(_ids("ababab")).propose(5).tokens == _ids("ababa")


def test_what_is_said_later_is_found_too() -> None:
    tokens = _ids("one two")
    lookup = NgramProposer(tokens)
    assert lookup.propose(4).tokens == ()
    tokens += _ids(" three, one t")
    assert lookup.propose(4).tokens == _ids("wo t")


def test_trust_follows_what_came() -> None:
    lookup = NgramProposer(_ids("abab"))
    first = lookup.propose(4)
    for _ in range(20):
        lookup.update(first, 4, 4)
    assert lookup.propose(1).rate > 0.95
    for _ in range(20):
        lookup.update(first, 1, 0)
    assert lookup.propose(1).rate < 0.1


def test_a_draft_is_as_long_as_it_pays() -> None:
    sure, unsure = Proposal([1] * 20, 4, 0.95), Proposal([1] * 20, 2, 0.2)
    assert best_length([sure], BatchCostModel(FREE), 100) == 15
    assert best_length([sure], BatchCostModel(DEAR), 100) == 0
    assert best_length([unsure], BatchCostModel({1: 1.0, 2: 1.3}), 100) == 0
    assert best_length([sure], BatchCostModel(FREE), 3) == 3, "the room in the context"
    assert best_length([sure] * 8, BatchCostModel(FREE), 100) == 1
    assert best_length([sure] * 9, BatchCostModel(FREE), 100) == 0, "the batch is full"
    steps = BatchCostModel({1: 1.0, 2: 1.1, 3: 2.0, 4: 2.1})
    assert best_length([Proposal([1] * 9, 4, 0.5)], steps, 100) == 1


def test_costs_between_and_beyond_what_was_measured() -> None:
    costs = BatchCostModel({1: 1.0, 2: 1.5, 4: 2.5})
    assert (costs.of(1), costs.of(3), costs.of(4), costs.of(8)) == (1.0, 2.0, 2.5, 5.0)
    for _ in range(200):
        costs.observe(2, 3.0)
    assert costs.of(2) == pytest.approx(3.0, rel=0.01) and costs.of(1) < 2.5


def test_measuring_leaves_the_slot_empty_and_stops_in_time() -> None:
    runner, ticks = FakeRunner(), itertools.count(0, 0.2)
    costs = measure(runner, lambda: next(ticks))
    assert runner.caches[0] == [] and costs.max_rows < 16


def test_text_is_the_same_and_takes_fewer_steps() -> None:
    texts = ["abcabcabc" * 5, "hello world, hello moon, hello sun " * 2, "xyz"]
    runs = {}
    for name, costs in {"plain": None, "ahead": BatchCostModel(dict(FREE))}.items():
        runner = FakeRunner()
        engine = _engine(runner, costs)
        events = [e for n, text in enumerate(texts) for e in engine.add(n, prompt(text), GREEDY)]
        out = run(engine, events)
        runs[name] = [text_of(out[n]) for n in range(3)]
        if costs is not None:
            stats = engine.stats()
            assert stats.accepted_tokens > 30 and stats.generated_tokens == sum(map(len, texts))
            assert stats.steps < len(texts[1]) * 0.8
            for slot in engine._scheduler.slots:
                assert runner.caches.get(slot.index, []) == slot.tokens
    assert runs["plain"] == runs["ahead"] == [text[::-1] for text in texts]


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(temperature=0.7, seed=1)])
def test_the_same_request_is_computed_in_the_same_batches_however_long_they_took(
    sampling: SamplingParams,
) -> None:
    runner = FakeRunner()
    engine = _engine(runner, BatchCostModel(dict(FREE)))
    batches: list[list[int]] = []
    for number in (1, 2):
        runner.batches.clear()
        run(engine, engine.add(number, prompt("abcabcabcabcabc" * 4), sampling))
        batches.append([len(row.tokens) for rows in runner.batches for row in rows if not row.is_prefill])
        assert engine._drafter is not None
        for rows in FREE:  # the machine becomes busy with something else
            for _ in range(100):
                engine._drafter.costs.observe(rows, float(rows))
    assert batches[0] == batches[1] and max(batches[1]) > 4
    assert engine._drafter.costs.of(16) > 4 * engine._drafter.costs.of(1)


def test_dear_batches_draft_nothing() -> None:
    engine = _engine(FakeRunner(), BatchCostModel(dict(DEAR)))
    ticks = itertools.count(0, 1.0)
    engine._clock = lambda: next(ticks)
    engine.add(1, prompt("abcdef" * 10), GREEDY)
    engine._drafter.costs = BatchCostModel(dict(DEAR))
    for _ in range(10):
        engine.step()
    assert engine.stats().drafted_tokens == 0


@given(
    st.text("ab", min_size=4, max_size=80), st.integers(1, 40), st.sampled_from([(), ("ba",), ("aab", "bb")])
)
def test_limits_and_stops_are_kept_in_the_middle_of_a_draft(
    text: str, max_tokens: int, stop: tuple[str, ...]
) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, stop=stop)
    outs = []
    for costs in (None, BatchCostModel(dict(FREE))):
        runner = FakeRunner()
        engine = _engine(runner, costs)
        out = run(engine, engine.add(1, prompt(text), sampling))[1]
        outs.append((text_of(out), out[-1].reason))  # type: ignore[union-attr]
        assert runner.caches[0] == engine._scheduler.slots[0].tokens
    assert outs[0] == outs[1]


def test_greedy_drafts_keep_to_batches_that_round_as_single_tokens_do() -> None:
    for temperature, largest in ((0.0, 2), (0.8, 16)):
        runner = FakeRunner()
        engine = _engine(runner, BatchCostModel(dict(FREE), exact=2))
        run(engine, engine.add(1, prompt("abc" * 30), SamplingParams(temperature=temperature)))
        assert max(row.outputs for rows in runner.batches for row in rows) == largest


STORY = (
    "The lighthouse keeper wound the brass clock at nine each evening, lit the great lamp, and wrote the "
    "weather in a blue book. On Sundays he polished the brass clock, and on Mondays he painted the stairs."
)
TASKS = [
    f"Repeat this text exactly: {STORY}",
    f"Copy the following sentence two times. {STORY[:100]}",
    "Write the numbers from one to thirty in words.",
    "Why is the sky blue?",
]


@pytest.fixture(scope="module")
def pair(smollm2: Path, cache: Path) -> Iterator[tuple[LlamaBackend, LlamaBackend]]:
    """Open the model twice: without speculation, and with every available draft used."""
    plain = EngineConfig(context=512, slots=4, speculation=False)
    with (
        LlamaBackend.open(smollm2, plain) as one,
        LlamaBackend.open(smollm2, EngineConfig(context=512, slots=4)) as two,
    ):
        measured = two._worker._engine._drafter.costs
        assert measured is not None
        two._worker._engine._drafter.costs = BatchCostModel(dict(FREE), measured.exact)
        two._worker._engine._drafter.costs.observe = lambda rows, seconds: None  # type: ignore[method-assign]
        yield one, two


def _together(backend: LlamaBackend, tasks: list[str], sampling: SamplingParams) -> list[str]:
    out = [""] * len(tasks)

    def one(number: int) -> None:
        out[number] = ask(backend, user(tasks[number]), sampling)[0]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def test_real_greedy_text_is_the_same_for_1_2_4_users(pair: tuple[LlamaBackend, LlamaBackend]) -> None:
    plain, ahead = pair
    sampling = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=48)
    expected = [ask(plain, user(task), sampling)[0] for task in TASKS]
    for users in (1, 2, 4):
        assert _together(ahead, TASKS[:users], sampling) == expected[:users]
    stats = ahead.stats()
    assert stats.accepted_tokens > 40 and stats.accepted_tokens / stats.drafted_tokens > 0.2
    assert plain.stats().drafted_tokens == 0


def test_a_seeded_draw_is_the_same_too(pair: tuple[LlamaBackend, LlamaBackend]) -> None:
    sampling = SamplingParams(temperature=0.8, seed=3, max_tokens=40)
    plain, ahead = (ask(backend, user(TASKS[0]), sampling)[0] for backend in pair)
    assert plain == ahead


def test_real_costs_are_measured(smollm2: Path, cache: Path) -> None:
    with LlamaBackend.open(smollm2, EngineConfig(context=256, slots=1)) as backend:
        costs = backend._worker._engine._drafter.costs
        assert costs is not None and costs.max_rows >= 2
        assert 0 < costs.of(1) < costs.of(costs.max_rows)
        assert 2 <= costs.exact <= costs.max_rows
        assert backend._worker._engine.runner.length(0) == 0  # type: ignore[attr-defined]
        assert ask(backend, user("Hi"), SamplingParams(max_tokens=3))[0]


def test_costs_are_measured_once(
    pair: tuple[LlamaBackend, LlamaBackend], smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_times, "compute", None)  # fails if a child process is started
    choice, threads = probe_model(smollm2).choice, pair[1].info.threads
    costs = batch_costs(smollm2, choice, threads)
    assert costs is not None and costs.table.keys() >= {1, 2}
    with pytest.raises(TypeError):
        batch_costs(smollm2, choice, threads + 1)


def test_one_pass_computes_all_drafts(smollm2: Path, cache: Path) -> None:
    """Sequences of equal length in slots that are not adjacent are bridged, so that they share a pass."""
    with LlamaBackend.open(smollm2, EngineConfig(context=256, slots=4, speculation=False)) as backend:
        runner = backend._worker._engine.runner
        bridges = runner._bridges([BatchRow(0, 0, [1, 2, 3], 3), BatchRow(3, 0, [1, 2, 3], 3)])  # type: ignore[attr-defined]
        assert [(b.slot, len(b.tokens), b.outputs) for b in bridges] == [(1, 3, 0), (2, 3, 0)]
