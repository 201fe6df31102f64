"""Prompt-lookup speculation: guess the next tokens from what was said before, and check them in one batch.

Answers repeat their context: an edited text, a quotation, code. The tokens that followed the same few tokens
last time are computed together with the next one, and kept as far as sampling comes to the same. So the text
is what it would have been; only its speed changes. After Saxena, prompt-lookup-decoding (2023).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.core.prefix_cache import common_prefix
from engine.core.stats import Counters
from engine.core.types import BatchRow, ModelRunner

if TYPE_CHECKING:
    from engine.core.request_state import ActiveRequest

_SIZES = (4, 3, 2)  # tokens that must be the same, the surest first
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)  # batches whose cost is measured; no draft makes a larger one
_FIRST_RATE = 0.4  # what a guess is trusted before any was checked
_LEARN = 0.15
_WORTH = 1.05  # a gain that is less than the noise of its estimate is none


@dataclass(frozen=True)
class Proposal:
    """The tokens that may come next, after a match of `size` tokens; each is right at `rate`, 0 to 1."""

    tokens: Sequence[int]
    size: int
    rate: float


NO_PROPOSAL = Proposal((), 0, 0.0)


class NgramProposer:
    """Guesses for one conversation, and how good they were."""

    def __init__(self, tokens: list[int]) -> None:
        """`tokens` is the conversation's own list, which grows."""
        self._tokens = tokens
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where its last follower stands
        self._seen = 0
        self._rates = dict.fromkeys(_SIZES, _FIRST_RATE)

    def guess(self, most: int) -> Proposal:
        """Up to `most` tokens that followed the longest match of the conversation's end."""
        self._index()
        tokens = self._tokens
        for size in _SIZES:
            at = self._after.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if at is not None:
                # Past the end it goes on with itself, as a repetition would.
                period = len(tokens) - at
                return Proposal([tokens[at + n % period] for n in range(most)], size, self._rates[size])
        return NO_PROPOSAL

    def learn(self, guess: Proposal, drafted: int, right: int) -> None:
        """Record that of the `drafted` first tokens of a guess the first `right` came out so."""
        rate = self._rates[guess.size]
        for hit in [1.0] * right + [0.0] * (right < drafted):
            rate += _LEARN * (hit - rate)
        self._rates[guess.size] = rate

    def _index(self) -> None:
        tokens = self._tokens
        for at in range(max(self._seen, 1), len(tokens)):
            for size in _SIZES:
                if at >= size:
                    self._after[tuple(tokens[at - size : at])] = at
        self._seen = len(tokens)


class BatchCostModel:
    """Seconds that a batch of so many tokens takes; measured at the start, and corrected by every step."""

    def __init__(self, seconds: dict[int, float], exact: int | None = None) -> None:
        """`seconds` has a batch of 1 at least.

        Batches of up to `exact` tokens give bit for bit what single tokens give; None means that all do.
        llama.cpp has other kernels for larger batches, which round otherwise, and the likeliest token of two
        that are almost equal may then be the other one.
        """
        self.exact = max(seconds) if exact is None else min(exact, max(seconds))
        self._rows = sorted(seconds)
        self._seconds = dict(seconds)

    @property
    def table(self) -> dict[int, float]:
        """Seconds by the size of the batch, for the sizes that were measured."""
        return dict(self._seconds)

    @property
    def most(self) -> int:
        """The largest batch whose cost is known."""
        return self._rows[-1]

    def of(self, rows: int) -> float:
        """Seconds for a batch of `rows` tokens; between two that were measured, on the line between them."""
        at = bisect_left(self._rows, rows)
        high = self._rows[min(at, len(self._rows) - 1)]
        low = self._rows[max(at - 1, 0)]
        if high == low or rows >= high:
            return self._seconds[high] * max(1.0, rows / high)
        share = (rows - low) / (high - low)
        return self._seconds[low] * (1 - share) + self._seconds[high] * share

    def observe(self, rows: int, seconds: float) -> None:
        """Correct the table by a step; what slowed one batch slows all of them, this one for certain."""
        if rows not in self._seconds:
            return
        change = min(2.0, max(0.5, seconds / self._seconds[rows]))
        for other in self._rows:
            self._seconds[other] *= 1 + 0.1 * (change - 1)
        self._seconds[rows] *= 1 + 0.1 * (change - 1)


def measure(runner: ModelRunner, clock: Callable[[], float], budget: float = 1.0) -> BatchCostModel:
    """Time batches of growing size in slot 0, which is empty afterwards, in two rounds of `budget` seconds.

    A model so slow that the budget ends early has no large batches in its table, and gets no long drafts.
    """
    began = clock()
    seconds: dict[int, float] = {}
    for rows in _ROWS:
        seconds[rows] = _time(runner, clock, rows)
        if clock() - began > budget:
            break
    for rows, first in seconds.items():  # in rounds: a short disturbance spoils one time of a size, not both
        seconds[rows] = min(first, _time(runner, clock, rows))
    runner.prepare(0, 0)
    return BatchCostModel(seconds, runner.exact_rows(sorted(seconds)))


def _time(runner: ModelRunner, clock: Callable[[], float], rows: int) -> float:
    runner.prepare(0, 0)
    began = clock()
    runner.decode([BatchRow(0, 0, [0] * rows, rows)])
    return clock() - began


def best_length(guesses: Sequence[Proposal], costs: BatchCostModel, most: int) -> int:
    """How many tokens to draft for each of the running sequences, up to `most`; 0 when it does not pay.

    All get the same number, for llama.cpp computes sequences of equal length in one pass (see
    Runner._bridges). It is the number with the most tokens a second to be expected.
    """
    count = len(guesses)
    plain = count / costs.of(count)
    best, length = plain * _WORTH, 0
    expected = float(count)
    for more in range(1, min(most, costs.most // count - 1) + 1):
        gain = sum(guess.rate**more for guess in guesses if len(guess.tokens) >= more)
        if not gain:
            break
        expected += gain
        rate = expected / costs.of(count * (more + 1))
        if rate > best:
            best, length = rate, more
    return length


class Drafter:
    """Guesses ahead for all running requests together; see engine.core.speculative."""

    def __init__(self, costs: BatchCostModel, context: int, counters: Counters) -> None:
        """`context` is the most tokens that one conversation may hold."""
        self.costs = costs
        self._context, self._counters = context, counters

    def extend(self, rows: list[BatchRow], ahead: Sequence[ActiveRequest]) -> list[BatchRow]:
        """Add guessed tokens to the rows, those of `ahead`, where that is faster than one token at a time."""
        costs = self.costs
        if not rows or 2 * len(rows) > costs.most or any(row.reads for row in rows):
            return rows
        greedy = any(state.sampling.temperature == 0 for state in ahead)  # must stay the same to the letter
        room = min(self._context - len(state.sequence.tokens) for state in ahead) - 1
        most = min(room, (costs.exact if greedy else costs.most) // len(rows) - 1)
        if most < 1:
            return rows
        for state in ahead:
            state.lookup = state.lookup or NgramProposer(state.sequence.tokens)
            state.guess = state.lookup.guess(min(most, state.most - state.said - 1))
        length = best_length([state.guess for state in ahead], costs, most)
        if not length:
            return rows
        return [_longer(row, state.guess.tokens, length) for row, state in zip(rows, ahead, strict=True)]

    def learn(self, state: ActiveRequest, drafted: int, before: int) -> None:
        """Compare the guess with what came; its first token is compared even when it was not drafted.

        `drafted` tokens were computed with the row, and the conversation had `before` tokens then.
        """
        guess, state.guess = state.guess, NO_PROPOSAL
        if not guess.tokens or state.lookup is None:
            return
        tried = min(len(guess.tokens), max(drafted, 1))
        right = common_prefix(guess.tokens[:tried], state.sequence.tokens[before:])
        state.lookup.learn(guess, tried, right)
        if drafted:
            self._counters.drafted_tokens += tried
            self._counters.accepted_tokens += right


def _longer(row: BatchRow, guess: Sequence[int], length: int) -> BatchRow:
    """The row with `length` guessed tokens; what a guess lacks is filled up with anything."""
    filled = [*guess[:length], *[row.tokens[-1]] * (length - len(guess))]
    return BatchRow(row.slot, row.start, [*row.tokens, *filled], length + 1)
