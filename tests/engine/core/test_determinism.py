"""The same request gives the same answer: from the cache, and under load when that is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from engine.config import CHUNK
from engine.core.engine import Engine
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import GREEDY, run, text_of

LONG = "abcdefgh" * 40  # 320 tokens: two chunks and a half


def ask(engine: Engine, number: int, text: str) -> str:
    return text_of(run(engine, engine.add(number, prompt(text), GREEDY))[number])


def engine_of(runner: FakeRunner, *, slots: int = 2, deterministic: bool = False) -> Engine:
    return Engine(runner, slots=slots, context=2000, queue=8, batch=512, deterministic=deterministic)


@pytest.mark.parametrize("slots", [1, 2], ids=["its slot", "a copy"])
def test_a_prompt_that_is_asked_again_is_answered_from_its_own_logits(slots: int) -> None:
    runner = FakeRunner()
    engine = engine_of(runner, slots=slots)
    assert ask(engine, 1, "first " * 5) == " tsrif" * 5
    before = len(runner.batches)
    assert ask(engine, 2, "first " * 5) == " tsrif" * 5
    # rows of the second time: only the answer's tokens, never the prompt's
    start = len(prompt("first " * 5))
    assert all(row.start >= start for batch in runner.batches[before:] for row in batch)


def test_an_earlier_turn_that_is_asked_again_has_kept_its_logits_too() -> None:
    runner = FakeRunner()
    engine = engine_of(runner, slots=1)
    first = prompt("ab")
    run(engine, engine.add(1, first, GREEDY))
    second = [*first, *prompt("cd")]
    run(engine, engine.add(2, second, GREEDY))
    before = len(runner.batches)
    assert text_of(run(engine, engine.add(3, first, GREEDY))[3]) == "ba"
    assert all(row.start >= len(first) for batch in runner.batches[before:] for row in batch)
    # its answer replaced what came after it, so the second turn's logits are gone
    before = len(runner.batches)
    run(engine, engine.add(4, second, GREEDY))
    assert any(row.start < len(second) for row in runner.batches[before])


def test_another_prompt_never_gets_the_logits() -> None:
    runner = FakeRunner()
    engine = engine_of(runner, slots=1)
    assert [ask(engine, n, text) for n, text in enumerate(["abc", "abd", "ab", "abc"])] == [
        "cba",
        "dba",
        "ba",
        "cba",
    ]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_prompt_that_differs_in_its_last_token_never_gets_the_logits(
    slots: int, deterministic: bool
) -> None:
    """Two beginnings of an answer may differ there, in the chats of two people."""
    engine = Engine(
        FakeRunner(),
        slots=slots,
        context=2000,
        queue=8,
        batch=512,
        cache_ram=1 << 20,
        deterministic=deterministic,
    )
    question = prompt("x" * 126)  # with the beginning, one more than a chunk
    for number, letter in enumerate("vwvuw"):
        begun = [*question, ord("x"), ord(letter)]
        events = run(engine, engine.add(number, begun, GREEDY, continues=True))[number]
        slot = next(one for one in engine._scheduler.slots if one.tokens[: len(begun)] == begun)
        assert engine.runner.caches[slot.index][: len(begun)] == begun, "the cache has this prompt's tokens"  # type: ignore[attr-defined]
        alone = engine_of(FakeRunner())
        assert text_of(events) == text_of(run(alone, alone.add(9, begun, GREEDY, continues=True))[9])


def rows_of(runner: FakeRunner, slot_tokens: int) -> list[tuple[int, int]]:
    return [(row.start, len(row.tokens)) for batch in runner.batches for row in batch][:slot_tokens]


def test_a_deterministic_engine_computes_one_sequence_at_a_time_in_the_same_steps() -> None:
    alone = FakeRunner()
    expected = ask(engine_of(alone, deterministic=True), 1, LONG)
    assert rows_of(alone, 3) == [(0, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, len(prompt(LONG)) - 2 * CHUNK)]

    together = FakeRunner()
    engine = engine_of(together, slots=3, deterministic=True)
    events = [*engine.add(1, prompt(LONG), GREEDY), *engine.add(2, prompt("xyz"), GREEDY)]
    events += engine.add(3, prompt(LONG[::-1]), GREEDY)
    answers = run(engine, events)
    assert text_of(answers[1]) == expected and text_of(answers[2]) == "zyx"
    assert all(len(batch) == 1 for batch in together.batches)
    slot = together.batches[0][0].slot
    mine = [(row.start, len(row.tokens)) for batch in together.batches for row in batch if row.slot == slot]
    assert mine == [(row.start, len(row.tokens)) for batch in alone.batches for row in batch]


def test_a_deterministic_engine_reuses_whole_chunks_of_prompts_only() -> None:
    runner = FakeRunner()
    engine = engine_of(runner, slots=1, deterministic=True)
    ask(engine, 1, LONG)
    before = len(runner.batches)
    ask(engine, 2, LONG)
    assert runner.batches[before][0].start == 2 * CHUNK
    # an answer was not computed in chunks: it is read again with the next turn
    before = len(runner.batches)
    later = [*prompt(LONG), *map(ord, LONG[::-1]), *prompt("xyz")]
    run(engine, engine.add(3, later, GREEDY))
    starts = [row.start for batch in runner.batches[before:] for row in batch]
    assert starts[0] == 2 * CHUNK and starts[1] == 3 * CHUNK


def test_saved_conversations_count_their_logits_as_memory() -> None:
    runner = FakeRunner()
    engine = Engine(runner, slots=1, context=2000, queue=8, batch=512, cache_ram=1 << 20)
    for number, text in enumerate(("first " * 5, "second " * 5, "first " * 5)):
        ask(engine, number, text)
    one = np.zeros(1, np.float32).nbytes
    saved = engine._scheduler.store._saved
    assert saved and all(item.size == len(item.state) + one * len(item.prompts) for item in saved)
    assert engine.stats().saved_bytes == sum(item.size for item in saved)
