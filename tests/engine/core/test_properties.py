"""Random engine runs: returning conversations, cancels, aborts, evictions, drafts and time limits."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.config import Limits, SamplingParams
from engine.core.engine import Engine, Tagged
from engine.core.speculative import BatchCostModel
from engine.errors import QueueFull
from engine.types import Event, Finished, MessagesDropped, PrefillProgress, Queued, TextDelta
from tests.engine.fakes import FakeRunner, prompt
from tests.engine.helpers import text_of

CONTEXT = 160
OPENINGS = ("shared beginning of forty characters " + "ab" * 8, "another start, " + "xyz" * 15, "short ")
ORDER = {MessagesDropped: 0, Queued: 1, PrefillProgress: 2, TextDelta: 3, Finished: 4}


class EngineLife(RuleBasedStateMachine):
    """Compares the engine's answers with the expected ones: the reversed prompts."""

    @initialize(
        slots=st.integers(1, 4),
        queue=st.integers(0, 4),
        batch=st.integers(32, 48),
        ram=st.sampled_from([0, 400, 2000, 1_000_000]),
        ahead=st.sampled_from([None, {1: 1.0, 16: 1.0}, {1: 1.0, 2: 1.1, 4: 2.0, 8: 2.5}]),
        can_truncate=st.booleans(),
        seconds=st.sampled_from([None, None, 40.0]),
    )
    def build(
        self,
        slots: int,
        queue: int,
        batch: int,
        ram: int,
        ahead: dict[int, float] | None,
        can_truncate: bool,
        seconds: float | None,
    ) -> None:
        self.runner, self.time = FakeRunner(can_truncate=can_truncate), 0.0
        self.batch, self.ram = batch, ram
        self.engine = Engine(
            self.runner,
            slots=slots,
            context=CONTEXT,
            queue=queue,
            batch=batch,
            cache_ram=ram,
            costs=BatchCostModel(dict(ahead)) if ahead and can_truncate else None,
            limits=Limits(seconds=seconds),
            clock=self.tick,
        )
        self.events: dict[int, list[Event]] = defaultdict(list)
        self.expected: dict[int, str] = {}
        self.histories = [prompt(opening)[:-1] for opening in OPENINGS]
        self.number = 0

    def tick(self) -> float:
        self.time += 0.01
        return self.time

    @rule(which=st.integers(0, 2), text=st.text("abc", max_size=30), max_tokens=st.integers(1, 60))
    def ask(self, which: int, text: str, max_tokens: int) -> None:
        question = "".join(map(chr, self.histories[which])) + text
        tokens = prompt(question)
        if len(tokens) >= CONTEXT:
            self.histories[which] = prompt(OPENINGS[which])[:-1]
            return
        self.number += 1
        try:
            self.collect(self.engine.add(self.number, tokens, SamplingParams(max_tokens=max_tokens)))
        except QueueFull:
            return
        # The answer's last token is not cached, so prompt and answer together may fill the context.
        self.expected[self.number] = question[::-1][: min(max_tokens, CONTEXT - len(tokens))]
        self.histories[which] = list(map(ord, question))

    @precondition(lambda self: self.engine.busy)
    @rule(steps=st.integers(1, 8))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            if self.engine.busy:
                self.collect(self.engine.step())

    @rule(back=st.integers(0, 6))
    def cancel(self, back: int) -> None:
        self.collect(self.engine.cancel(self.number - back))

    @rule()
    def abort(self) -> None:
        self.runner.abort()

    @rule(seconds=st.sampled_from([5.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(refuses=st.booleans())
    def states(self, refuses: bool) -> None:
        self.runner.refuses_states = refuses

    def collect(self, tagged: list[Tagged]) -> None:
        for request, event in tagged:
            earlier = self.events[request]
            assert not (earlier and isinstance(earlier[-1], Finished)), "something after the end"
            assert not earlier or ORDER[type(event)] >= ORDER[type(earlier[-1])], "out of order"
            earlier.append(event)
            if isinstance(event, Finished):
                self.check(request, event)

    def check(self, request: int, last: Finished) -> None:
        text, expected = text_of(self.events[request]), self.expected[request]
        assert expected.startswith(text)
        assert last.reason in ("cancelled", "time") or text == expected
        assert last.stats.generated_tokens == len(text)

    @invariant()
    def slots_are_what_they_seem(self) -> None:
        scheduler = self.engine._scheduler
        owners = [slot.owner for slot in scheduler.slots if slot.owner is not None]
        assert len(owners) == len(scheduler.running) == len(self.runner.started)
        assert len(owners) + len(scheduler.waiting) == len(self.engine._requests)
        for slot in scheduler.slots:
            assert self.runner.caches.get(slot.index, []) == slot.tokens
            assert len(slot.tokens) <= CONTEXT
            if slot.owner is not None:
                assert slot.tokens == slot.owner.tokens[: slot.owner.num_computed_tokens]

    @invariant()
    def budgets_hold(self) -> None:
        assert self.engine.stats().saved_bytes <= self.ram
        assert sum(len(row.tokens) for row in (self.runner.batches or [[]])[-1]) <= self.batch

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(5000):
            if not self.engine.busy:
                break
            self.collect(self.engine.step())
        assert not self.engine.busy, "something never ends"
        assert all(isinstance(self.events[n][-1], Finished) for n in self.expected)
        assert self.engine.stats().requests == len(self.expected)


TestEngineLife = EngineLife.TestCase
TestEngineLife.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
