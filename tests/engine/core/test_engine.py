from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SamplingParams
from engine.core.engine import Engine, Tagged
from engine.core.speculative import BatchCostModel
from engine.errors import QueueFull
from engine.types import Event, Finished, PrefillProgress, Queued
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import run, text_of

GREEDY = SamplingParams(temperature=0)


def _engine(
    runner: FakeRunner, *, slots: int = 2, queue: int = 8, batch: int = 32, context: int = 200
) -> Engine:
    return Engine(runner, slots=slots, context=context, queue=queue, batch=batch)


def test_answers_side_by_side_are_each_their_own() -> None:
    engine = _engine(FakeRunner())
    events = [*engine.add(1, prompt("abc"), GREEDY), *engine.add(2, prompt("defgh"), GREEDY)]
    events += engine.add(3, prompt("ij"), GREEDY)
    out = run(engine, events)
    assert [text_of(out[n]) for n in (1, 2, 3)] == ["cba", "hgfed", "ji"]
    assert all(isinstance(out[n][-1], Finished) and out[n][-1].reason == "stop" for n in out)


def test_position_in_the_queue_and_progress_are_told() -> None:
    engine = _engine(FakeRunner(), slots=1)
    events = [*engine.add(1, prompt("x" * 70), GREEDY), *engine.add(2, prompt("b"), GREEDY)]
    events += engine.add(3, prompt("c"), GREEDY)
    out = run(engine, events)
    assert [e.done for e in out[1] if isinstance(e, PrefillProgress)] == [0, 32, 64, 71]
    assert [e.position for e in out[3] if isinstance(e, Queued)] == [3, 2, 1]


def test_stats_are_true() -> None:
    engine = _engine(FakeRunner())
    run(engine, engine.add(1, prompt("hello"), GREEDY))
    # The second turn starts with the tokens of the first, and only the rest is computed.
    second = [*prompt("hello"), *map(ord, "olleh"), *prompt("xy")]
    last = run(engine, engine.add(2, second, SamplingParams(temperature=0, max_tokens=2)))[2][-1]
    assert isinstance(last, Finished)
    assert (last.stats.prompt_tokens, last.stats.cached_tokens) == (14, 11)
    assert last.stats.generated_tokens == 2


def test_limits_end_with_length() -> None:
    engine = _engine(FakeRunner(), context=12)
    out = run(engine, engine.add(1, prompt("abcdefgh"), SamplingParams(temperature=0, max_tokens=2)))
    assert text_of(out[1]) == "hg" and isinstance(out[1][-1], Finished) and out[1][-1].reason == "length"
    assert GREEDY.max_tokens == 0  # the default: as many as the context leaves
    out = run(engine, engine.add(2, prompt("abcdefgh"), GREEDY))
    assert text_of(out[2]) == "hgf" and isinstance(out[2][-1], Finished) and out[2][-1].reason == "length"


def test_a_stop_string_never_leaks() -> None:
    engine = _engine(FakeRunner())
    out = run(engine, engine.add(1, prompt("zzDNEba"), SamplingParams(temperature=0, stop=("END",))))
    assert text_of(out[1]) == "ab" and isinstance(out[1][-1], Finished) and out[1][-1].reason == "stop"


def test_only_the_first_word_of_an_answer_loses_its_space() -> None:
    runner = FakeRunner()
    runner.vocab.is_sentencepiece = True
    engine = _engine(runner)
    events = engine.add(1, prompt("24 "), GREEDY) + engine.add(2, prompt("24 "), GREEDY, continues=True)
    out = run(engine, events)
    assert (text_of(out[1]), text_of(out[2])) == ("42", " 42")


def test_cancel_while_waiting_reading_and_answering() -> None:
    runner = FakeRunner()
    engine = _engine(runner, slots=1)
    engine.add(1, prompt("a" * 100), GREEDY)
    engine.add(2, prompt("b"), GREEDY)
    assert [type(e) for _, e in engine.cancel(2)] == [Finished]  # waiting
    engine.step()
    assert [e.reason for _, e in engine.cancel(1) if isinstance(e, Finished)] == ["cancelled"]  # reading
    engine.add(3, prompt("c" * 20), GREEDY)
    engine.step()
    engine.step()
    assert [e.reason for _, e in engine.cancel(3) if isinstance(e, Finished)] == ["cancelled"]  # answering
    assert engine.cancel(3) == [] and not engine.busy and runner.started == {}


def test_an_aborted_step_is_repeated_and_changes_nothing() -> None:
    for can_truncate in (True, False):
        runner = FakeRunner(can_truncate=can_truncate)
        engine = _engine(runner)
        events = engine.add(1, prompt("abcdef"), GREEDY)
        for _ in range(3):
            events += engine.step()
        runner.abort()
        assert text_of(run(engine, events)[1]) == "fedcba"


def test_a_cache_that_cannot_be_cut_is_computed_again() -> None:
    engine = _engine(FakeRunner(can_truncate=False), slots=1)
    run(engine, engine.add(1, prompt("hello"), GREEDY))
    assert text_of(run(engine, engine.add(2, prompt("help"), GREEDY))[2]) == "pleh"


@settings(max_examples=150, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.text("abc", max_size=60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 12)),
        max_size=20,
    ),
    slots=st.integers(1, 4),
    batch=st.integers(32, 48),
    can_truncate=st.booleans(),
    ram=st.sampled_from([0, 300, 100_000]),
    ahead=st.booleans(),
    aborts=st.sets(st.integers(0, 60)),
)
def test_no_slot_leaks_and_no_token_goes_astray(  # noqa: C901 - one scenario, in order
    arrivals: list[tuple[str, int, int, int]],
    slots: int,
    batch: int,
    can_truncate: bool,
    ram: int,
    ahead: bool,
    aborts: set[int],
) -> None:
    """Random prompts, limits, pauses between arrivals, cancellation times (0: never), aborted steps."""
    runner = FakeRunner(can_truncate=can_truncate)
    costs = BatchCostModel({1: 1.0, 16: 1.5}) if ahead and can_truncate else None
    engine = Engine(runner, slots=slots, context=200, queue=3, batch=batch, cache_ram=ram, costs=costs)
    out: dict[int, list[Event]] = defaultdict(list)
    cancels: dict[int, int] = {}
    expected: dict[int, str] = {}
    clock = 0

    def step() -> None:
        nonlocal clock
        clock += 1
        if clock in aborts:
            runner.abort()
        for request, when in list(cancels.items()):
            if when <= clock:
                del cancels[request]
                collect(engine.cancel(request))
        collect(engine.step() if engine.busy else [])
        assert engine.stats().saved_bytes <= ram
        assert len(runner.started) == len(engine._scheduler.running) <= slots
        assert sum(len(row.tokens) for row in (runner.batches or [[]])[-1]) <= batch

    def collect(events: list[Tagged]) -> None:
        for request, event in events:
            assert not (out[request] and isinstance(out[request][-1], Finished)), "something after the end"
            out[request].append(event)

    for number, (text, limit, pause, cancel) in enumerate(arrivals):
        try:
            collect(engine.add(number, prompt(text), SamplingParams(temperature=0, max_tokens=limit)))
        except QueueFull:
            continue
        expected[number] = text[::-1][:limit]
        if cancel:
            cancels[number] = clock + cancel
        for _ in range(pause):
            step()
    for _ in range(2000):
        if not engine.busy:
            break
        step()
    assert not engine.busy and runner.started == {}
    assert all(
        slot.owner is None and runner.caches.get(slot.index, []) == slot.tokens
        for slot in engine._scheduler.slots
    )
    for number, text in expected.items():
        last = out[number][-1]
        assert isinstance(last, Finished)
        assert (
            text.startswith(text_of(out[number]))
            if last.reason == "cancelled"
            else text_of(out[number]) == text
        )
