"""Prompt-lookup speculative decoding: draft tokens from the conversation, and verify them in one batch.

Answers repeat their context: an edited text, a quotation, code. The tokens that followed the last occurrence
of the current n-gram are computed with the next token, and kept while sampling agrees with them. The text
stays the same but for rounding (see BatchCostModel); only the speed changes. After Saxena,
prompt-lookup-decoding (2023).
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

_SIZES = (4, 3, 2)  # n-gram lengths, the most reliable first
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)  # batch sizes whose cost is measured; drafts stay within them
_FIRST_RATE = 0.4  # assumed acceptance rate before any draft was verified
_LEARN = 0.15
_WORTH = 1.05  # smaller gains are within the noise of the estimate


@dataclass(frozen=True)
class Proposal:
    """Likely next tokens, from an n-gram of `size` tokens; `rate` is their acceptance rate, 0 to 1."""

    tokens: Sequence[int]
    size: int
    rate: float


NO_PROPOSAL = Proposal((), 0, 0.0)


class NgramProposer:
    """Proposals for one conversation, and their acceptance rates by n-gram length."""

    def __init__(self, tokens: list[int]) -> None:
        """`tokens` is the conversation's own list, which grows."""
        self._tokens = tokens
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token after its last occurrence
        self._seen = 0
        self._rates = dict.fromkeys(_SIZES, _FIRST_RATE)

    def propose(self, max_tokens: int) -> Proposal:
        """Return up to `max_tokens` tokens that followed the longest match of the conversation's end."""
        self._index()
        tokens = self._tokens
        for size in _SIZES:
            at = self._after.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if at is not None:
                # Past the end, the proposal repeats itself.
                period = len(tokens) - at
                return Proposal([tokens[at + n % period] for n in range(max_tokens)], size, self._rates[size])
        return NO_PROPOSAL

    def update(self, proposal: Proposal, drafted: int, right: int) -> None:
        """Record that the first `right` of the `drafted` tokens of a proposal were accepted."""
        rate = self._rates[proposal.size]
        for hit in [1.0] * right + [0.0] * (right < drafted):
            rate += _LEARN * (hit - rate)
        self._rates[proposal.size] = rate

    def _index(self) -> None:
        tokens = self._tokens
        for at in range(max(self._seen, 1), len(tokens)):
            for size in _SIZES:
                if at >= size:
                    self._after[tuple(tokens[at - size : at])] = at
        self._seen = len(tokens)


class BatchCostModel:
    """Seconds by batch size in tokens; measured at the start and corrected by every step."""

    def __init__(self, seconds: dict[int, float], exact: int | None = None) -> None:
        """`seconds` has at least an entry for 1.

        Batches of up to `exact` tokens give the logits of single tokens, bit for bit; None means all do.
        llama.cpp's kernels for larger batches round differently, which can change the argmax of near-ties; so
        does its attention to more than 256 tokens, which it splits over threads for single tokens only.
        """
        self.exact = max(seconds) if exact is None else min(exact, max(seconds))
        self._rows = sorted(seconds)
        self._seconds, self._first = dict(seconds), dict(seconds)

    def uncorrected(self) -> BatchCostModel:
        """Return the table as it was measured: what is decided by it does not depend on the time."""
        return BatchCostModel(self._first, self.exact)

    @property
    def table(self) -> dict[int, float]:
        """Return the seconds for each measured batch size."""
        return dict(self._seconds)

    @property
    def max_rows(self) -> int:
        """Return the largest batch size that was measured."""
        return self._rows[-1]

    def of(self, rows: int) -> float:
        """Return the seconds for a batch of `rows` tokens, interpolated between measured sizes."""
        at = bisect_left(self._rows, rows)
        high = self._rows[min(at, len(self._rows) - 1)]
        low = self._rows[max(at - 1, 0)]
        if high == low or rows >= high:
            return self._seconds[high] * max(1.0, rows / high)
        share = (rows - low) / (high - low)
        return self._seconds[low] * (1 - share) + self._seconds[high] * share

    def observe(self, rows: int, seconds: float) -> None:
        """Correct the table by a step's time: all sizes a little, the observed one twice."""
        if rows not in self._seconds:
            return
        change = min(2.0, max(0.5, seconds / self._seconds[rows]))
        for other in self._rows:
            self._seconds[other] *= 1 + 0.1 * (change - 1)
        self._seconds[rows] *= 1 + 0.1 * (change - 1)


def measure(runner: ModelRunner, clock: Callable[[], float], budget: float = 1.0) -> BatchCostModel:
    """Time batches of growing size in slot 0, which is empty afterwards, in two rounds of `budget` seconds.

    For a slow model the budget ends before the large sizes, which are then never used.
    """
    began = clock()
    seconds: dict[int, float] = {}
    for rows in _ROWS:
        seconds[rows] = _time(runner, clock, rows)
        if clock() - began > budget:
            break
    for rows, first in seconds.items():  # a second round: a short disturbance spoils only one of two times
        seconds[rows] = min(first, _time(runner, clock, rows))
    runner.prepare(0, 0)
    return BatchCostModel(seconds, runner.exact_rows(sorted(seconds)))


def _time(runner: ModelRunner, clock: Callable[[], float], rows: int) -> float:
    runner.prepare(0, 0)
    began = clock()
    runner.decode([BatchRow(0, 0, [0] * rows, rows)])
    return clock() - began


def best_length(proposals: Sequence[Proposal], costs: BatchCostModel, max_tokens: int) -> int:
    """Return how many tokens to draft for each running sequence, up to `max_tokens`; 0 when it does not pay.

    All sequences get the same number, since llama.cpp computes rows of equal length in one pass (see
    Runner._bridges): the one with the highest expected tokens per second.
    """
    count = len(proposals)
    plain = count / costs.of(count)
    best, length = plain * _WORTH, 0
    expected = float(count)
    for more in range(1, min(max_tokens, costs.max_rows // count - 1) + 1):
        gain = sum(proposal.rate**more for proposal in proposals if len(proposal.tokens) >= more)
        if not gain:
            break
        expected += gain
        rate = expected / costs.of(count * (more + 1))
        if rate > best:
            best, length = rate, more
    return length


class Drafter:
    """Extends decode steps by drafts for all running requests; see engine.core.speculative."""

    def __init__(self, costs: BatchCostModel, context: int, counters: Counters) -> None:
        """`context` is the maximum number of tokens of one conversation."""
        self.costs = costs
        self._context, self._counters = context, counters

    def extend(self, rows: list[BatchRow], requests: Sequence[ActiveRequest]) -> list[BatchRow]:
        """Return the rows of `requests` with draft tokens, or unchanged where drafting would be slower."""
        costs = self.costs
        if not rows or 2 * len(rows) > costs.max_rows or any(row.is_prefill for row in rows):
            return rows
        greedy = any(state.sampling.temperature == 0 for state in requests)  # must give identical text
        room = min(self._context - len(state.sequence.tokens) for state in requests) - 1
        longest = min(room, (costs.exact if greedy else costs.max_rows) // len(rows) - 1)
        if longest < 1:
            return rows
        for state in requests:
            state.proposer = state.proposer or NgramProposer(state.sequence.tokens)
            state.proposal = state.proposer.propose(min(longest, state.max_tokens - state.num_generated - 1))
        if len(requests) == 1 and (greedy or requests[0].sampling.seed is not None):
            costs = costs.uncorrected()  # the same request gives the same batches, so the same rounding
        length = best_length([state.proposal for state in requests], costs, longest)
        if not length:
            return rows
        return [
            _longer(row, state.proposal.tokens, length) for row, state in zip(rows, requests, strict=True)
        ]

    def update(self, state: ActiveRequest, drafted: int, before: int) -> None:
        """Compare the proposal with the sampled tokens; its first token counts even when it was not drafted.

        `drafted` tokens were computed with the row, when the conversation had `before` tokens.
        """
        proposal, state.proposal = state.proposal, NO_PROPOSAL
        if not proposal.tokens or state.proposer is None:
            return
        tried = min(len(proposal.tokens), max(drafted, 1))
        right = common_prefix(proposal.tokens[:tried], state.sequence.tokens[before:])
        state.proposer.update(proposal, tried, right)
        if drafted:
            self._counters.drafted_tokens += tried
            self._counters.accepted_tokens += right


def _longer(row: BatchRow, draft: Sequence[int], length: int) -> BatchRow:
    """Return the row with `length` draft tokens; a shorter draft is padded with the row's last token."""
    filled = [*draft[:length], *[row.tokens[-1]] * (length - len(draft))]
    return BatchRow(row.slot, row.start, [*row.tokens, *filled], length + 1)
