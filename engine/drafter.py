"""Guesses along with what is computed anyway: which rows get how many, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.active_request import ActiveRequest
from engine.draft import NO_GUESS, Costs, Lookup, best_length
from engine.offload import common_prefix
from engine.scheduler import Row
from engine.stats import Counters


class Drafter:
    """Guesses ahead for all running requests together; see engine.draft."""

    def __init__(self, costs: Costs, context: int, counters: Counters) -> None:
        """`context` is the most tokens that one conversation may hold."""
        self.costs = costs
        self._context, self._counters = context, counters

    def extend(self, rows: list[Row], ahead: Sequence[ActiveRequest]) -> list[Row]:
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
            state.lookup = state.lookup or Lookup(state.sequence.tokens)
            state.guess = state.lookup.guess(min(most, state.most - state.said - 1))
        length = best_length([state.guess for state in ahead], costs, most)
        if not length:
            return rows
        return [_longer(row, state.guess.tokens, length) for row, state in zip(rows, ahead, strict=True)]

    def learn(self, state: ActiveRequest, drafted: int, before: int) -> None:
        """Compare the guess with what came; its first token is compared even when it was not drafted.

        `drafted` tokens were computed with the row, and the conversation had `before` tokens then.
        """
        guess, state.guess = state.guess, NO_GUESS
        if not guess.tokens or state.lookup is None:
            return
        tried = min(len(guess.tokens), max(drafted, 1))
        right = common_prefix(guess.tokens[:tried], state.sequence.tokens[before:])
        state.lookup.learn(guess, tried, right)
        if drafted:
            self._counters.drafted_tokens += tried
            self._counters.accepted_tokens += right


def _longer(row: Row, guess: Sequence[int], length: int) -> Row:
    """The row with `length` guessed tokens; what a guess lacks is filled up with anything."""
    filled = [*guess[:length], *[row.tokens[-1]] * (length - len(guess))]
    return Row(row.slot, row.start, [*row.tokens, *filled], length + 1)
