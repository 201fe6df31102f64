from __future__ import annotations

import pytest

from engine.core.prefix_cache import common_prefix
from engine.core.scheduler import Admission, Scheduler, TokenSequence
from engine.errors import QueueFull


def _admit_all(scheduler: Scheduler) -> list[Admission]:
    out = []
    while admission := scheduler.admit():
        scheduler.admitted(admission, admission.keep)
        out.append(admission)
    return out


def _drain(scheduler: Scheduler, sequence: TokenSequence) -> None:
    while sequence.num_remaining:
        scheduler.computed(scheduler.plan(512))
    scheduler.finish(sequence)


def test_queue_is_bounded_beyond_the_free_slots() -> None:
    scheduler = Scheduler(slots=1, queue=1, batch=64)
    scheduler.add(TokenSequence(1, [1, 2]))
    scheduler.add(TokenSequence(2, [1, 2]))
    with pytest.raises(QueueFull):
        scheduler.add(TokenSequence(3, [1, 2]))
    _admit_all(scheduler)
    with pytest.raises(QueueFull):
        scheduler.add(TokenSequence(3, [1, 2]))


def test_decoding_rows_come_first_and_prefill_keeps_to_its_budget() -> None:
    scheduler = Scheduler(slots=2, queue=0, batch=64)
    talker, reader = TokenSequence(1, [5]), TokenSequence(2, list(range(100)))
    scheduler.add(talker)
    scheduler.add(reader)
    _admit_all(scheduler)
    rows = scheduler.plan(16)
    assert [(row.slot, len(row.tokens), row.outputs) for row in rows] == [(0, 1, True), (1, 16, False)]
    assert [sequence for sequence, _ in scheduler.computed(rows)] == [talker]


def test_prefill_takes_the_whole_batch_when_nobody_decodes() -> None:
    scheduler = Scheduler(slots=2, queue=0, batch=64)
    scheduler.add(TokenSequence(1, list(range(200))))
    _admit_all(scheduler)
    assert [len(row.tokens) for row in scheduler.plan(16)] == [64]


def test_a_short_prompt_passes_a_long_one_which_still_moves() -> None:
    scheduler = Scheduler(slots=2, queue=0, batch=64)
    scheduler.add(TokenSequence(1, list(range(1000))))
    scheduler.add(TokenSequence(2, list(range(1000, 1020))))
    _admit_all(scheduler)
    assert [(len(row.tokens), row.outputs) for row in scheduler.plan(16)] == [(20, False), (20, True)]


def test_next_turn_returns_to_its_slot_and_reads_only_what_is_new() -> None:
    scheduler = Scheduler(slots=2, queue=0, batch=512)
    first, other = TokenSequence(1, list(range(100))), TokenSequence(2, list(range(500, 600)))
    for sequence in (first, other):
        scheduler.add(sequence)
    _admit_all(scheduler)
    _drain(scheduler, first)
    _drain(scheduler, other)
    scheduler.add(TokenSequence(3, [*range(100), 7, 8, 9]))
    (admission,) = _admit_all(scheduler)
    assert (admission.slot, admission.keep, admission.copy_from) == (0, 100, None)


def test_the_same_prompt_again_computes_one_token() -> None:
    scheduler = Scheduler(slots=1, queue=0, batch=512)
    first = TokenSequence(1, list(range(50)))
    scheduler.add(first)
    _admit_all(scheduler)
    _drain(scheduler, first)
    scheduler.add(TokenSequence(2, list(range(50))))
    assert _admit_all(scheduler)[0].keep == 49


def test_a_shared_system_prompt_is_copied_and_the_long_conversation_left_whole() -> None:
    scheduler = Scheduler(slots=2, queue=0, batch=512)
    system = list(range(60))
    long = TokenSequence(1, [*system, *range(1000, 1200)])
    scheduler.add(long)
    _admit_all(scheduler)
    _drain(scheduler, long)
    scheduler.add(TokenSequence(2, [*system, 7, 8]))
    (admission,) = _admit_all(scheduler)
    assert (admission.slot, admission.keep, admission.copy_from) == (1, 60, 0)
    assert len(scheduler.slots[0].tokens) == 260


def test_a_cache_that_cannot_be_cut_serves_only_what_begins_with_all_of_it() -> None:
    scheduler = Scheduler(slots=2, queue=0, batch=512, can_truncate=False)
    system = list(range(60))
    long = TokenSequence(1, [*system, *range(1000, 1020)])
    scheduler.add(long)
    _admit_all(scheduler)
    _drain(scheduler, long)
    for tokens in ([*system, 7, 8], long.tokens, long.tokens[:-5]):
        scheduler.add(TokenSequence(2, list(tokens)))
        (admission,) = _admit_all(scheduler)
        assert (admission.slot, admission.keep, admission.copy_from) == (1, 0, None)
        scheduler.finish(admission.sequence)
    scheduler.add(TokenSequence(3, [*long.tokens, 7]))
    (admission,) = _admit_all(scheduler)
    assert (admission.slot, admission.keep, admission.copy_from) == (0, 80, None)


def test_the_least_recently_used_conversation_loses_its_cache_first() -> None:
    scheduler = Scheduler(slots=2, queue=0, batch=512)
    one, two = TokenSequence(1, [1] * 50), TokenSequence(2, [2] * 50)
    scheduler.add(one)
    scheduler.add(two)
    _admit_all(scheduler)
    _drain(scheduler, two)
    _drain(scheduler, one)
    scheduler.add(TokenSequence(3, [3] * 50))
    assert _admit_all(scheduler)[0].slot == 1


def test_common_prefix() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2, 3], [1, 2]) == 2
    assert common_prefix([1, 2, 3], [1, 9, 3]) == 1


def test_the_first_answer_waits_for_no_other_prompt() -> None:
    scheduler = Scheduler(slots=3, queue=0, batch=512)
    for number in range(3):
        scheduler.add(TokenSequence(number, list(range(1000 * number, 1000 * number + 100))))
    _admit_all(scheduler)
    assert [(row.slot, row.outputs) for row in scheduler.plan(16)] == [(0, True)]


def test_where_a_prompt_ends_no_other_is_begun() -> None:
    scheduler = Scheduler(slots=3, queue=0, batch=512)
    for number in range(3):
        scheduler.add(TokenSequence(number, [100 * number + n for n in range(80)]))
    _admit_all(scheduler)
    assert [(row.slot, len(row.tokens), row.outputs) for row in scheduler.plan(100)] == [(0, 80, 1)]
    assert [len(row.tokens) for row in scheduler.plan(160)] == [80, 80]  # two that end go together
