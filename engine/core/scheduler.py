"""Who computes what in the next step: admission, slots, prefix reuse, prefill chunks. Plain Python.

After nano-vllm's scheduler (GeeeekExplorer/nano-vllm, engine/scheduler.py), with slots for its block manager:
llama.cpp keeps one KV sequence a slot. A sequence that has tokens left to read is in prefill; one that has
exactly one is being decoded. Both are fed by the same few lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.core.prefix_cache import PrefixCache, SavedState, common_prefix
from engine.core.types import BatchRow
from engine.errors import QueueFull

_WORTH_COPYING = 16  # tokens; below that, computing them again is as fast as copying a whole cache


@dataclass
class TokenSequence:
    """One request on its way: `tokens` are prompt and answer so far, `fed` of them are in the cache."""

    id: int
    tokens: list[int]
    prompt: int = 0
    fed: int = 0
    slot: int | None = None

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)

    @property
    def left(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.fed

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt


@dataclass
class Slot:
    """A place in the KV cache: `tokens` are what it holds, `used` is when it was last given up."""

    index: int
    tokens: list[int] = field(default_factory=list)
    owner: TokenSequence | None = None
    used: int = 0


@dataclass(frozen=True)
class Admission:
    """A sequence got a slot; its first `keep` tokens are there, in the slot to copy from, or in `saved`.

    `evicts` says that another conversation loses its slot for it.
    """

    sequence: TokenSequence
    slot: int
    keep: int
    copy_from: int | None
    evicts: bool = False
    saved: SavedState | None = None


class Scheduler:
    """Gives slots to sequences and plans steps; knows nothing of models."""

    def __init__(self, *, slots: int, queue: int, batch: int, cache_ram: int = 0, cuts: bool = True) -> None:
        """`queue` is how many may wait beyond the free slots; `batch` is the token budget of a step.

        `cache_ram` is how many bytes of caches may be kept of conversations that lost their slots. Without
        `cuts`, a cache cannot be shortened: it serves those sequences alone that begin with all of it.
        """
        self.store = PrefixCache(cache_ram)
        self.slots = [Slot(index) for index in range(slots)]
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self._queue, self._batch, self._clock = queue, batch, 0
        self._cuts = cuts

    def add(self, sequence: TokenSequence) -> None:
        """Queue a sequence. Raises QueueFull."""
        idle = sum(slot.owner is None for slot in self.slots)
        if len(self.waiting) >= self._queue + idle:
            raise QueueFull(f"{len(self.waiting)} requests are waiting already: try again later")
        self.waiting.append(sequence)

    def admit(self) -> Admission | None:
        """Give the next waiting sequence a slot, if one is free. Call `admitted` before anything else."""
        idle = [slot for slot in self.slots if slot.owner is None]
        if not idle or not self.waiting:
            return None
        sequence = self.waiting.popleft()
        slot, keep, source = self._place(sequence, idle)
        saved, length = self._recall(sequence)
        if saved is not None and length > keep + _WORTH_COPYING:
            slot, keep, source = _oldest(idle), length, None
            self.store.take(saved, keep=keep * 2 < len(saved.tokens))
        else:
            saved = None
        slot.owner, sequence.slot = sequence, slot.index
        self.running.append(sequence)
        # Half of the cache used again is the same conversation, going on or told anew.
        same = common_prefix(slot.tokens, sequence.tokens) * 2 >= len(slot.tokens)
        return Admission(sequence, slot.index, keep, source, not same, saved)

    def _recall(self, sequence: TokenSequence) -> tuple[SavedState | None, int]:
        """What was saved of the sequence's beginning; its last token is always computed."""
        return self.store.find(sequence.tokens[:-1], whole=not self._cuts)

    def _place(self, sequence: TokenSequence, idle: list[Slot]) -> tuple[Slot, int, int | None]:
        """The slot for a sequence, the tokens that it may keep, and the slot to copy them from.

        A conversation goes back to its own slot. A sequence that only shares a beginning (a system prompt)
        with a longer conversation takes the least recently used slot and a copy, and leaves that one whole.
        """
        tokens = sequence.tokens[:-1]  # the last token is always computed: its logits start the answer
        shared = {slot.index: self._shared(slot.tokens, tokens) for slot in self.slots}
        best = max(idle, key=lambda slot: (shared[slot.index], slot.used))
        if shared[best.index] * 2 >= len(best.tokens) and shared[best.index]:
            return best, shared[best.index], None
        oldest = _oldest(idle)
        source = max(self.slots, key=lambda slot: shared[slot.index])
        if source is oldest or shared[source.index] < _WORTH_COPYING:
            return oldest, shared[oldest.index], None
        return oldest, shared[source.index], source.index

    def _shared(self, cache: Sequence[int], tokens: Sequence[int]) -> int:
        """How many tokens a cache saves a sequence."""
        length = common_prefix(cache, tokens)
        return length if self._cuts or length == len(cache) else 0

    def admitted(self, admission: Admission, kept: int) -> None:
        """Record how many cached tokens the sequence really starts with."""
        self.rewind(admission.sequence, kept)

    def rewind(self, sequence: TokenSequence, fed: int) -> None:
        """Record that the cache holds just the first `fed` tokens of a running sequence."""
        sequence.fed = fed
        self._slot(sequence).tokens = sequence.tokens[:fed]

    def cut(self, slot: int, kept: int) -> None:
        """Record that a slot's cache holds just its first `kept` tokens, whether it is in use or not."""
        cache = self.slots[slot]
        del cache.tokens[kept:]
        if cache.owner is not None:
            cache.owner.fed = kept

    def plan(self, prefill: int) -> list[BatchRow]:
        """The rows of the next step, by slot: one token of each sequence in decode, and prompts' chunks.

        `prefill` bounds the prompt tokens in a step, to keep those smooth who are decoding. While none is, a
        step may take longer, but only until the first answer can begin. Half of the bound goes to the prompt
        that waited longest, the rest to the shortest: none starves, short ones pass.
        """
        decoding = [s for s in self.running if s.left == 1]
        reading = [s for s in self.running if s.left > 1]
        most = prefill if decoding or not reading else max(prefill, self._to_first_answer(reading))
        shares = self._shares(reading, min(self._batch - len(decoding), most))
        rows = [self._row(s, 1) for s in decoding] + [self._row(s, n) for s, n in shares if n]
        return sorted(rows, key=lambda row: row.slot)

    @staticmethod
    def _to_first_answer(reading: list[TokenSequence]) -> int:
        """The bound with which `_shares` reads the shortest prompt to its end."""
        shortest = min(s.left for s in reading)
        return shortest if reading[0].left == shortest else 2 * shortest

    @staticmethod
    def _shares(reading: list[TokenSequence], budget: int) -> list[tuple[TokenSequence, int]]:
        if not reading:
            return []
        oldest = reading[0]
        given = {oldest.id: min(oldest.left, (budget + 1) // 2)}
        budget -= given[oldest.id]
        for sequence in sorted(reading, key=lambda s: s.left):
            more = min(sequence.left - given.get(sequence.id, 0), budget)
            given[sequence.id] = given.get(sequence.id, 0) + more
            budget -= more
        ends = [s for s in reading if given[s.id] == s.left]
        # llama.cpp computes rows of unlike lengths one after the other. Where a prompt comes to its end, the
        # beginning of another would delay that answer, and take a pass over the weights of its own.
        return [(s, given[s.id]) for s in reading if s is oldest or s in ends or not ends]

    @staticmethod
    def _row(sequence: TokenSequence, count: int) -> BatchRow:
        assert sequence.slot is not None
        tokens = sequence.tokens[sequence.fed : sequence.fed + count]
        return BatchRow(sequence.slot, sequence.fed, tokens, outputs=int(count == sequence.left))

    def computed(self, rows: Sequence[BatchRow]) -> list[tuple[TokenSequence, BatchRow]]:
        """Record that rows are in the cache; returns the sequences whose next token can be sampled now."""
        ready: list[tuple[TokenSequence, BatchRow]] = []
        for row in rows:
            slot = self.slots[row.slot]
            assert slot.owner is not None and slot.owner.fed == row.start
            slot.owner.fed += len(row.tokens)
            slot.tokens += row.tokens
            if row.outputs:
                ready.append((slot.owner, row))
        return ready

    def saveable(self, slot: int) -> bool:
        """Whether a slot's cache is worth saving before it is lost: long enough, and in no other slot."""
        tokens = self.slots[slot].tokens
        others = (other for other in self.slots if other.index != slot)
        return len(tokens) >= _WORTH_COPYING and all(
            common_prefix(other.tokens, tokens) < len(tokens) for other in others
        )

    def finish(self, sequence: TokenSequence) -> None:
        """Take a sequence out, running or waiting. Its slot keeps the cache for the next turn."""
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
    """An empty slot, or else the one that was used the longest time ago."""
    return min(idle, key=lambda slot: (bool(slot.tokens), slot.used, slot.index))
