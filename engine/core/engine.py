"""The engine: add, step, cancel. Connects the scheduler to a runner; call it from one thread only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from engine.config import Limits, SamplingParams
from engine.core.detokenizer import IncrementalDetokenizer
from engine.core.prefix_cache import Logits, SavedState
from engine.core.request_state import ActiveRequest
from engine.core.scheduler import Admission, Scheduler, TokenSequence
from engine.core.speculative import BatchCostModel, Drafter
from engine.core.stats import Counters, EngineStats
from engine.core.types import BatchRow, DecodeAborted, ModelRunner
from engine.errors import TooSlow
from engine.types import Event, Finished, FinishReason, PrefillProgress, Queued, TextDelta

_SMOOTH_SECONDS = 0.3  # of prefill in a step while other requests decode
_LEAST_PREFILL = 16  # tokens; smaller chunks of a prompt waste the pass over the weights
Tagged = tuple[int, Event]


class Engine:
    """Continuous batching over a runner."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        slots: int,
        context: int,
        queue: int,
        batch: int,
        cache_ram: int = 0,
        costs: BatchCostModel | None = None,
        limits: Limits | None = None,
        deterministic: bool = False,
        counters: Counters | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`context` is the maximum number of tokens of one conversation; see Scheduler for the rest.

        With `costs`, tokens are drafted where that is faster; without, never. A `deterministic` engine does
        not keep caches beyond its slots.
        """
        self._limits, self._counters = limits or Limits(), counters or Counters()
        self._drafter = Drafter(costs, context, self._counters) if costs is not None else None
        self.runner = runner
        self.reading: frozenset[int] = frozenset()  # requests with prefill in the current step
        self._scheduler = Scheduler(
            slots=slots,
            queue=queue,
            batch=batch,
            cache_ram=0 if deterministic else cache_ram,
            can_truncate=runner.can_truncate,
            deterministic=deterministic,
        )
        self._context, self._batch, self._clock = context, batch, clock
        self._requests: dict[int, ActiveRequest] = {}
        self._rate = 0.0  # tokens a second of the steps that read prompts

    @property
    def busy(self) -> bool:
        """Return whether any request is waiting or running."""
        return bool(self._requests)

    def stats(self) -> EngineStats:
        """Return a snapshot of the counters. Safe from any thread."""
        return self._counters.snapshot(
            slots=len(self._scheduler.slots),
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            saved_bytes=self._scheduler.store.used,
        )

    def add(
        self, request: int, tokens: list[int], sampling: SamplingParams, *, continues: bool = False
    ) -> list[Tagged]:
        """Queue a request of at most `context - 1` tokens; `continues` an answer. Raises QueueFull."""
        assert 0 < len(tokens) < self._context and request not in self._requests
        sequence = TokenSequence(request, list(tokens))
        self._scheduler.add(sequence)
        first_word = self.runner.vocab.is_sentencepiece and not continues
        text = IncrementalDetokenizer(sampling.stop, skip_space=first_word)
        wanted = sampling.max_tokens or self._context
        max_tokens = min(wanted, self._limits.new_tokens or wanted)
        self._requests[request] = ActiveRequest(sequence, sampling, text, max_tokens, self._clock())
        return self._positions()

    def cancel(self, request: int) -> list[Tagged]:
        """End a request at once, waiting or running; unknown and finished ones are ignored."""
        state = self._requests.get(request)
        return self._tagged(state, self._end(state, "cancelled")) if state else []

    def step(self) -> list[Tagged]:
        """End overdue requests, admit, decode one batch, sample. Return the events in order."""
        began = self._clock()
        out = self._end_overdue(began) + self._admit()
        rows = self._scheduler.plan(self._prefill_budget())
        if self._drafter is not None:
            states = {s.slot: self._requests[s.id] for s in self._scheduler.running}
            rows = self._drafter.extend(rows, [states[row.slot] for row in rows])
        if rows and self._decode(rows):
            ready = self._scheduler.computed(rows)
            out += self._progress(rows)
            for sequence, row in ready:
                state = self._requests[sequence.id]
                out += self._tagged(state, self._next_tokens(state, row))
        self._counters.busy_seconds += self._clock() - began
        return out

    def _end_overdue(self, now: float) -> list[Tagged]:
        """End requests over their time limit, which counts from admission, without the queue."""
        if (limit := self._limits.seconds) is None:
            return []
        states = [self._requests[sequence.id] for sequence in self._scheduler.running]
        late = [state for state in states if now - state.admitted > limit]
        return [event for state in late for event in self._tagged(state, self._end(state, "time"))]

    def close(self) -> None:
        """Free the runner."""
        self.runner.close()

    def _admit(self) -> list[Tagged]:
        out: list[Tagged] = []
        while admission := self._scheduler.admit():
            state = self._requests[admission.sequence.id]
            kept = self._fill_slot(admission)
            self._scheduler.admitted(admission, kept)
            self.runner.start(admission.slot, state.sampling)
            state.admitted, state.cached = self._clock(), kept
            self._counters.cached_tokens += kept
            out.append(
                (admission.sequence.id, PrefillProgress(kept, admission.sequence.num_prompt_tokens, kept))
            )
            if (logits := self._scheduler.logits_of_prompt(admission.sequence)) is not None:
                out += self._tagged(state, self._next_token(state, logits=logits))
        return out + self._positions() if out else out

    def _fill_slot(self, admission: Admission) -> int:
        """Save the evicted cache and fill the slot for its new sequence; return how many tokens it holds."""
        slot, keep = admission.slot, admission.keep
        self._counters.evictions += admission.evicts
        if admission.evicts:
            self._save(slot)
        if admission.saved is not None:
            restored = self.runner.restore(slot, admission.saved.state)
            self._counters.restores += restored
            keep = keep if restored else 0
        return self.runner.prepare(slot, keep, admission.copy_from)

    def _save(self, slot: int) -> None:
        store, tokens = self._scheduler.store, self._scheduler.slots[slot].tokens
        if not store.budget or not self._scheduler.saveable(slot):
            return
        if store.accepts(tokens, self.runner.state_size(slot)):
            prompts = dict(self._scheduler.slots[slot].prompts)
            store.insert(SavedState(list(tokens), self.runner.save(slot), prompts))
            self._counters.saves += 1

    def _positions(self) -> list[Tagged]:
        out: list[Tagged] = []
        for position, sequence in enumerate(self._scheduler.waiting, 1):
            state = self._requests[sequence.id]
            if state.position != position:
                state.position = position
                out.append((sequence.id, Queued(position)))
        return out

    def _prefill_budget(self) -> int:
        return max(_LEAST_PREFILL, min(self._batch, int(self._rate * _SMOOTH_SECONDS)))

    def _measure(self, rows: Sequence[BatchRow], seconds: float) -> None:
        count = sum(len(row.tokens) for row in rows)
        reads = any(row.is_prefill for row in rows)
        if self._drafter is not None and not reads:
            self._drafter.costs.observe(count, seconds)
        if reads and count >= _LEAST_PREFILL and seconds > 0:
            rate = count / seconds
            self._rate = rate if self._rate == 0 else 0.7 * self._rate + 0.3 * rate
        self._counters.steps += 1
        self._counters.occupied += len(rows)
        self._counters.offered += len(self._scheduler.slots)
        self._counters.model_seconds += seconds

    def _decode(self, rows: Sequence[BatchRow]) -> bool:
        """Compute the rows and return True; after an abort, rewind every slot and return False."""
        owners = {s.slot: s for s in self._scheduler.running}
        self.reading = frozenset(owners[row.slot].id for row in rows if row.is_prefill)
        began = self._clock()
        try:
            self.runner.decode(rows)
        except DecodeAborted:
            for row in rows:
                self._scheduler.rewind(owners[row.slot], self.runner.prepare(row.slot, row.start))
            return False
        finally:
            self.reading = frozenset()
        self._measure(rows, self._clock() - began)
        return True

    def _progress(self, rows: Sequence[BatchRow]) -> list[Tagged]:
        owners = {s.slot: s for s in self._scheduler.running}
        reading = [owners[row.slot] for row in rows if row.is_prefill]
        for row in rows:
            prompt_left = owners[row.slot].num_prompt_tokens - row.start
            self._counters.prefilled_tokens += max(0, min(len(row.tokens), prompt_left))
        return [
            (
                s.id,
                PrefillProgress(
                    min(s.num_computed_tokens, s.num_prompt_tokens),
                    s.num_prompt_tokens,
                    self._requests[s.id].cached,
                ),
            )
            for s in reading
            if s.num_output_tokens == 0
        ]

    def _next_tokens(self, state: ActiveRequest, row: BatchRow) -> list[Event]:
        """Sample the next token, and one more after each accepted draft token."""
        sequence, before = state.sequence, len(state.sequence.tokens)
        if sequence.num_output_tokens == 0 and self.runner.can_truncate:
            [logits] = self.runner.logits(row.slot, 1)
            self._scheduler.keep_logits(sequence, logits)
        draft = row.tokens[1:] if row.outputs > 1 else ()
        events: list[Event] = []
        for output in range(row.outputs):
            events += self._next_token(state, output)
            done = sequence.id not in self._requests or output == len(draft)
            if done or sequence.tokens[-1] != draft[output]:
                break
        if self._drafter is not None:
            self._drafter.update(state, len(draft), before)
        kept = row.start + len(row.tokens) - len(draft) + output
        if kept < row.start + len(row.tokens):
            self._scheduler.truncate(row.slot, self.runner.prepare(row.slot, kept))
        return events

    def _next_token(self, state: ActiveRequest, output: int = 0, logits: Logits | None = None) -> list[Event]:
        """Sample from one output of the last batch, or from the given logits."""
        sequence = state.sequence
        assert sequence.slot is not None
        began = self._clock()
        try:
            token = self.runner.sample(sequence.slot, output, logits)
        except TooSlow:
            return self._end(state, "time")
        now = self._clock()
        self._counters.model_seconds += now - began
        state.first = state.first or now
        if self.runner.vocab.is_eog(token):
            return self._end(state, "stop")
        sequence.tokens.append(token)
        state.num_generated += 1
        self._counters.generated_tokens += 1
        delta = state.text.push(self._piece(state, token))
        events: list[Event] = [TextDelta(delta)] if delta else []
        if state.text.stopped:
            return events + self._end(state, "stop")
        if state.num_generated >= state.max_tokens or len(sequence.tokens) >= self._context:
            return events + self._end(state, "length")
        return events

    def _piece(self, state: ActiveRequest, token: int) -> bytes:
        """Return what a token adds to the answer, which may ask for the spellings of control tokens."""
        vocab = self.runner.vocab
        return vocab.text(token).encode() if token in state.sampling.spelled else vocab.piece(token)

    def _end(self, state: ActiveRequest, reason: FinishReason) -> list[Event]:
        sequence = state.sequence
        if sequence.slot is not None:
            self.runner.stop(sequence.slot)
        self._scheduler.finish(sequence)
        del self._requests[sequence.id]
        rest = state.text.finish()
        stats = state.stats(self._clock())
        self._counters.finished(reason, stats)
        return [*([TextDelta(rest)] if rest else []), Finished(reason, stats, state.text.stopped)]

    @staticmethod
    def _tagged(state: ActiveRequest, events: Sequence[Event]) -> list[Tagged]:
        return [(state.sequence.id, event) for event in events]
