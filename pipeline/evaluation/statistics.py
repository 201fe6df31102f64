"""Losses of held-out rows: their mean with an interval, and the paired comparison of two models.

Rows are the sampling unit, since the tokens of one row are correlated. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from common.text import nan_to_none
from pipeline.certificate.scoring.metrics import MIN_ANSWERS, Floats, bootstrap_interval

__all__ = [
    "LossSummary",
    "PairedComparison",
    "RowLoss",
    "by_category",
    "compare",
    "compare_in_memory",
    "group_by_category",
    "summarize",
    "wilson_interval",
]

NO_CATEGORY = "(none)"
"""The category of rows without one, in a data set where others have one."""

_Z = NormalDist().inv_cdf(0.975)
_UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class RowLoss:
    """The loss of one held-out row: the sum over its `tokens` trained tokens, in nats."""

    nats: float
    tokens: int
    category: str | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"a row's loss is of one token or more, not of {self.tokens}")


@dataclass(frozen=True)
class LossSummary:
    """The loss in nats a token with its 95 % interval, and exp(loss).

    `low` and `high` are NaN for fewer than `MIN_ANSWERS` rows.
    """

    loss: float
    low: float
    high: float
    perplexity: float
    rows: int
    tokens: int


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same rows.

    In `better` of the `rows`, a `share` with the 95 % interval `low` to `high`, the tuned model finds the
    wanted answer likelier than the base does; an equal likelihood does not count. `gain` is the base's loss
    minus the tuned model's in nats a token, with its own interval, NaN for fewer than `MIN_ANSWERS` rows.
    """

    better: int
    rows: int
    share: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float


def summarize(rows: Sequence[RowLoss]) -> LossSummary:
    """Return the mean loss over all tokens of the rows. Raises ValueError without rows."""
    if not rows:
        raise ValueError("there is no row to take the loss of")
    nats, tokens = _nats(rows), _tokens(rows)
    loss = float(nats.sum() / tokens.sum())
    low, high = _interval(nats, tokens)
    return LossSummary(loss, low, high, _exp(loss), len(rows), int(tokens.sum()))


def by_category(rows: Sequence[RowLoss]) -> dict[str, LossSummary]:
    """Return a summary for each category, in the order of their names; empty if no row has one."""
    return {name: summarize(group) for name, group in group_by_category(rows).items()}


def group_by_category(rows: Sequence[RowLoss]) -> dict[str, list[RowLoss]]:
    """Return the rows of each category, in the order of their names; empty if no row has one."""
    if all(row.category is None for row in rows):
        return {}
    groups: dict[str, list[RowLoss]] = {}
    for row in rows:
        groups.setdefault(NO_CATEGORY if row.category is None else row.category, []).append(row)
    return {name: groups[name] for name in sorted(groups)}


def compare(base: Sequence[RowLoss], tuned: Sequence[RowLoss]) -> PairedComparison:
    """Compare two models' losses on the same rows, in the same order.

    Raises ValueError if the rows differ in number, tokens or category, or if there are none.
    """
    if [(row.tokens, row.category) for row in base] != [(row.tokens, row.category) for row in tuned]:
        raise ValueError("the losses to compare are of different rows")
    if not base:
        raise ValueError("there is no row to compare")
    gained, tokens = _nats(base) - _nats(tuned), _tokens(base)
    better = int((gained > 0).sum())
    low, high = wilson_interval(better, len(base))
    gain_low, gain_high = _interval(gained, tokens)
    gain = float(gained.sum() / tokens.sum())
    return PairedComparison(better, len(base), better / len(base), low, high, gain, gain_low, gain_high)


def compare_in_memory(base_losses: Sequence[RowLoss], tuned_losses: Sequence[RowLoss]) -> dict[str, Any]:
    """Return a report's figures on two models and the same rows as JSON, with None for NaN.

    `{"base": {...}, "tuned": {...}, "paired": {...}, "categories": {name: {"base", "tuned", "paired"}}}` with
    the fields of LossSummary and PairedComparison. `categories` is empty if no row has one. Raises ValueError
    as `compare` does.
    """
    summary = _pair(base_losses, tuned_losses)
    base, tuned = group_by_category(base_losses), group_by_category(tuned_losses)
    summary["categories"] = {name: _pair(group, tuned[name]) for name, group in base.items()}
    tree: dict[str, Any] = nan_to_none(summary)
    return tree


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (E. B. Wilson, 1927). Raises ValueError for no trial."""
    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"{successes} of {trials} is no proportion")
    share, square = successes / trials, _Z * _Z / trials
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    # At the ends the exact bound is 0 or 1, and rounding would leave 1e-17.
    return (middle - half if successes else 0.0), (middle + half if successes < trials else 1.0)


def _pair(base: Sequence[RowLoss], tuned: Sequence[RowLoss]) -> dict[str, Any]:
    return {
        "base": asdict(summarize(base)),
        "tuned": asdict(summarize(tuned)),
        "paired": asdict(compare(base, tuned)),
    }


def _interval(part: Floats, whole: Floats) -> tuple[float, float]:
    return bootstrap_interval(part, whole) if len(part) >= MIN_ANSWERS else _UNKNOWN


def _nats(rows: Sequence[RowLoss]) -> Floats:
    return np.array([row.nats for row in rows], np.float64)


def _tokens(rows: Sequence[RowLoss]) -> Floats:
    return np.array([row.tokens for row in rows], np.float64)


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
