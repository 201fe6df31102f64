"""Scheduler: admission, slots, prefix reuse and chunked prefill, in plain Python.

After nano-vllm's scheduler (GeeeeekExplorer/nano-vllm, engine/scheduler.py), with slots instead of a block
manager: llama.cpp keeps one KV sequence per slot. A sequence with more than one remaining token is in
prefill; one with exactly one is in decode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.config import CHUNK
from engine.core.prefix_cache import Logits, PrefixCache, SavedState, common_prefix
from engine.core.types import BatchRow
from engine.errors import QueueFull

_WORTH_COPYING = 16  # tokens; computing fewer again is as fast as copying a whole cache
_MAX_PROMPTS = 4  # prompts of a conversation whose logits are kept: up to a megabyte each


@dataclass
class TokenSequence:
    """A request's `tokens`, prompt and answer so far; the first `num_computed_tokens` are in the cache."""

    id: int
    tokens: list[int]
    num_prompt_tokens: int = 0
    num_computed_tokens: int = 0
    slot: int | None = None

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.tokens)

    @property
    def num_remaining(self) -> int:
        """Return how many tokens must be computed before the next one can be sampled."""
        return len(self.tokens) - self.num_computed_tokens

    @property
    def num_output_tokens(self) -> int:
        """Return how many tokens the answer has so far."""
        return len(self.tokens) - self.num_prompt_tokens


@dataclass
class Slot:
    """A KV sequence: the `tokens` in its cache, and when it was last released (`used`).

    `prompts` has the logits after a prompt, by its length, for prompts that `tokens` begins with. Computing
    a prompt's last token again, in a batch of another shape, would round otherwise: the same question could
    get another answer. The first `prefilled` tokens were computed in whole chunks (see Scheduler).
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    prompts: dict[int, Logits] = field(default_factory=dict)
    prefilled: int = 0
    owner: TokenSequence | None = None
    used: int = 0

    def forget_beyond(self, length: int) -> None:
        """Forget what is known of the cache beyond its first `length` tokens."""
        self.prompts = {size: logits for size, logits in self.prompts.items() if size <= length}
        self.prefilled = min(self.prefilled, length)


@dataclass(frozen=True)
class Admission:
    """A slot for a sequence, whose first `keep` tokens are in that slot, in `copy_from`, or in `saved`.

    `evicts` is True when another conversation loses its slot. `prompts` are those of the cache (see Slot).
    """

    sequence: TokenSequence
    slot: int
    keep: int
    copy_from: int | None
    evicts: bool = False
    saved: SavedState | None = None
    prompts: Mapping[int, Logits] = field(default_factory=dict)


class Scheduler:
    """Assigns slots to sequences and plans steps; independent of any model."""

    def __init__(
        self,
        *,
        slots: int,
        queue: int,
        batch: int,
        cache_ram: int = 0,
        can_truncate: bool = True,
        deterministic: bool = False,
    ) -> None:
        """`queue` is how many may wait beyond the free slots; `batch` is the token budget of a step.

        `cache_ram` is the prefix cache's budget in bytes. Without `can_truncate`, a cache cannot be shortened
        and serves only sequences that begin with all of it.

        Results of a batch depend on its shape, in the last bits. If `deterministic`, a step computes one
        sequence, prompts in chunks of `CHUNK` tokens from their beginning, and only whole chunks of prompts
        are reused: an answer then depends on nothing but its request.
        """
        self.store = PrefixCache(cache_ram)
        self.slots = [Slot(index) for index in range(slots)]
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self._queue, self._batch, self._clock = queue, batch, 0
        self._can_truncate, self._deterministic = can_truncate, deterministic

    def add(self, sequence: TokenSequence) -> None:
        """Queue a sequence. Raises QueueFull."""
        idle = sum(slot.owner is None for slot in self.slots)
        if len(self.waiting) >= self._queue + idle:
            raise QueueFull(f"{len(self.waiting)} requests are waiting already: try again later")
        self.waiting.append(sequence)

    def admit(self) -> Admission | None:
        """Assign a free slot to the next waiting sequence, or return None. Call `admitted` next."""
        idle = [slot for slot in self.slots if slot.owner is None]
        if not idle or not self.waiting:
            return None
        sequence = self.waiting.popleft()
        slot, keep, source = self._place(sequence, idle)
        saved, length = self._recall(sequence)
        cache: Slot | SavedState = slot if source is None else self.slots[source]
        if saved is not None and length > keep + _WORTH_COPYING:
            slot, keep, source, cache = _oldest(idle), length, None, saved
            self.store.pop(saved, keep=keep * 2 < len(saved.tokens))
        else:
            saved = None
        # A cache of which half is reused belongs to the same conversation, continued or regenerated.
        same = common_prefix(slot.tokens, sequence.tokens) * 2 >= len(slot.tokens)
        whole = len(sequence.tokens)
        if (
            keep == whole - 1
            and whole in cache.prompts
            and cache.tokens[keep : keep + 1] == sequence.tokens[keep:]
        ):
            keep = whole  # the very same prompt: its logits are there too
        slot.owner, sequence.slot = sequence, slot.index
        self.running.append(sequence)
        return Admission(sequence, slot.index, keep, source, not same, saved, cache.prompts)

    def _recall(self, sequence: TokenSequence) -> tuple[SavedState | None, int]:
        """Find a saved prefix of the sequence, without its last token, which is always computed."""
        return self.store.find(sequence.tokens[:-1], whole=not self._can_truncate)

    def _place(self, sequence: TokenSequence, idle: list[Slot]) -> tuple[Slot, int, int | None]:
        """Return the slot for a sequence, how many cached tokens it can reuse, and the slot to copy from.

        A conversation returns to its slot. A sequence that shares only a prefix (a system prompt) with a
        longer conversation gets the least recently used slot and a copy, so that both stay intact.
        """
        tokens = sequence.tokens[:-1]  # the last token is always computed: its logits start the answer
        shared = {slot.index: self._reusable(slot, tokens) for slot in self.slots}
        best = max(idle, key=lambda slot: (shared[slot.index], slot.used))
        if shared[best.index] * 2 >= len(best.tokens) and shared[best.index]:
            return best, shared[best.index], None
        oldest = _oldest(idle)
        source = max(self.slots, key=lambda slot: shared[slot.index])
        if source is oldest or shared[source.index] < _WORTH_COPYING:
            return oldest, shared[oldest.index], None
        return oldest, shared[source.index], source.index

    def _shared(self, cache: Sequence[int], tokens: Sequence[int]) -> int:
        """Return how many tokens of a cache a sequence can reuse."""
        length = common_prefix(cache, tokens)
        return length if self._can_truncate or length == len(cache) else 0

    def _reusable(self, slot: Slot, tokens: Sequence[int]) -> int:
        """Return how many tokens of a slot's cache a sequence can reuse."""
        if self._deterministic:
            return min(self._shared(slot.tokens, tokens), slot.prefilled) // CHUNK * CHUNK
        return self._shared(slot.tokens, tokens)

    def admitted(self, admission: Admission, kept: int) -> None:
        """Record how many cached tokens the sequence actually starts with."""
        slot = self._slot(admission.sequence)
        slot.prompts = dict(admission.prompts)
        slot.prefilled = min(kept, slot.prefilled) if admission.copy_from is None else kept
        self.rewind(admission.sequence, kept)

    def logits_of_prompt(self, sequence: TokenSequence) -> Logits | None:
        """Return the logits after a prompt that is in the cache as a whole; None if it must be computed."""
        if sequence.num_remaining:
            return None
        return self._slot(sequence).prompts[sequence.num_prompt_tokens]

    def keep_logits(self, sequence: TokenSequence, logits: Logits) -> None:
        """Keep the logits after a sequence's prompt, for the same prompt asked again."""
        prompts = self._slot(sequence).prompts
        prompts.pop(sequence.num_prompt_tokens, None)
        prompts[sequence.num_prompt_tokens] = logits
        if len(prompts) > _MAX_PROMPTS:
            del prompts[next(iter(prompts))]

    def rewind(self, sequence: TokenSequence, num_computed_tokens: int) -> None:
        """Record that the cache holds only the first `num_computed_tokens` tokens of a running sequence."""
        sequence.num_computed_tokens = num_computed_tokens
        slot = self._slot(sequence)
        slot.tokens = sequence.tokens[:num_computed_tokens]
        slot.forget_beyond(num_computed_tokens)

    def truncate(self, slot: int, kept: int) -> None:
        """Record that a slot's cache holds only its first `kept` tokens, whether it is in use or not."""
        cache = self.slots[slot]
        del cache.tokens[kept:]
        cache.forget_beyond(kept)
        if cache.owner is not None:
            cache.owner.num_computed_tokens = kept

    def plan(self, prefill: int) -> list[BatchRow]:
        """Return the rows of the next step, by slot: one token per decoding sequence, and chunks of prompts.

        `prefill` bounds the prompt tokens of a step, so that decoding stays smooth. While nothing decodes, a
        step may be longer, but only up to the first answer. Half of the bound goes to the oldest prompt and
        the rest to the shortest ones: no prompt starves, and short ones overtake.
        """
        if self._deterministic:
            return self._plan_one()
        decoding = [s for s in self.running if s.num_remaining == 1]
        reading = [s for s in self.running if s.num_remaining > 1]
        bound = prefill if decoding or not reading else max(prefill, self._to_first_answer(reading))
        shares = self._shares(reading, min(self._batch - len(decoding), bound))
        rows = [self._row(s, 1) for s in decoding] + [self._row(s, n) for s, n in shares if n]
        return sorted(rows, key=lambda row: row.slot)

    def _plan_one(self) -> list[BatchRow]:
        """Return one row of the next sequence in turn: a token, or the rest of a chunk of its prompt."""
        if not self.running:
            return []
        sequence = self.running.pop(0)
        self.running.append(sequence)
        return [
            self._row(sequence, min(sequence.num_remaining, CHUNK - sequence.num_computed_tokens % CHUNK))
        ]

    @staticmethod
    def _to_first_answer(reading: list[TokenSequence]) -> int:
        """Return the bound with which `_shares` completes the shortest prompt."""
        shortest = min(s.num_remaining for s in reading)
        return shortest if reading[0].num_remaining == shortest else 2 * shortest

    @staticmethod
    def _shares(reading: list[TokenSequence], budget: int) -> list[tuple[TokenSequence, int]]:
        if not reading:
            return []
        oldest = reading[0]
        given = {oldest.id: min(oldest.num_remaining, (budget + 1) // 2)}
        budget -= given[oldest.id]
        for sequence in sorted(reading, key=lambda s: s.num_remaining):
            more = min(sequence.num_remaining - given.get(sequence.id, 0), budget)
            given[sequence.id] = given.get(sequence.id, 0) + more
            budget -= more
        ends = [s for s in reading if given[s.id] == s.num_remaining]
        # llama.cpp computes rows of different lengths one after the other. When a prompt completes in this
        # step, a chunk of another would delay its answer, and cost one more pass over the weights.
        return [(s, given[s.id]) for s in reading if s is oldest or s in ends or not ends]

    @staticmethod
    def _row(sequence: TokenSequence, count: int) -> BatchRow:
        assert sequence.slot is not None
        tokens = sequence.tokens[sequence.num_computed_tokens : sequence.num_computed_tokens + count]
        return BatchRow(
            sequence.slot, sequence.num_computed_tokens, tokens, outputs=int(count == sequence.num_remaining)
        )

    def computed(self, rows: Sequence[BatchRow]) -> list[tuple[TokenSequence, BatchRow]]:
        """Record computed rows; return those whose next token can be sampled now, with their sequences."""
        ready: list[tuple[TokenSequence, BatchRow]] = []
        for row in rows:
            slot = self.slots[row.slot]
            assert slot.owner is not None and slot.owner.num_computed_tokens == row.start
            if slot.prefilled == row.start and len(row.tokens) == CHUNK:
                slot.prefilled += CHUNK
            slot.owner.num_computed_tokens += len(row.tokens)
            slot.tokens += row.tokens
            if row.outputs:
                ready.append((slot.owner, row))
        return ready

    def saveable(self, slot: int) -> bool:
        """Return whether a slot's cache is worth saving: long enough, and not contained in another slot."""
        tokens = self.slots[slot].tokens
        others = (other for other in self.slots if other.index != slot)
        return len(tokens) >= _WORTH_COPYING and all(
            common_prefix(other.tokens, tokens) < len(tokens) for other in others
        )

    def finish(self, sequence: TokenSequence) -> None:
        """Remove a sequence, running or waiting. Its slot keeps the cache for the next turn."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self._clock += 1
        slot = self._slot(sequence)
        slot.owner, slot.used = None, self._clock
        self.running.remove(sequence)

    def _slot(self, sequence: TokenSequence) -> Slot:
        assert sequence.slot is not None
        return self.slots[sequence.slot]


def _oldest(idle: Sequence[Slot]) -> Slot:
    """Return an empty slot, or else the least recently used one."""
    return min(idle, key=lambda slot: (bool(slot.tokens), slot.used, slot.index))
