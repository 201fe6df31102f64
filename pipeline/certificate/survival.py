"""Survival of a tuning: how much of what an adapter changed is still there after quantization.

Our own measure; docs/survival.md defines it and shows what it can and cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.counted import counted

Floats = NDArray[np.float64]

LEAST_CHANGE = 0.02
"""Nats a token. What changes less is a matter of rounding: Q8_0, the mildest type, moves a model by 0.004."""
LEAST_ANSWERS = 5
"""Of fewer, the interval holds the true share far more seldom than it says."""
WIDEST = 0.3
"""A wider interval tells "good" from "lost" no more."""
_NORMAL = NormalDist()
_DRAWS = 2000
_SEED = 20240


@dataclass(frozen=True)
class Share:
    """A share that was kept, with its 95 % interval; NaN where there is nothing to have a share of.

    Of few answers the interval holds the true share less often (docs/survival.md). `change` is what it is a
    share of, in nats a token. `doubt` says why the figure is not to be relied on; empty when it is.
    """

    value: float
    low: float
    high: float
    change: float
    doubt: str = ""

    @property
    def reliable(self) -> bool:
        """Whether the figure says something about the tuning."""
        return not self.doubt


def survival(kl_quantized: Sequence[Floats], kl_base: Sequence[Floats]) -> Share:
    """1 - KL(t||q) / KL(t||b), of sums over all tokens; each sequence holds one array [tokens] an answer.

    Below 0 when the quantized model is further from the tuned one than the base is.
    """
    lost, changed = _sums(kl_quantized), _sums(kl_base)
    return _share(changed - lost, changed, sum(map(len, kl_base)), "the adapter changes almost nothing")


def survival_won(kl_before: Sequence[Floats], kl_after: Sequence[Floats], kl_base: Sequence[Floats]) -> Share:
    """By how much survival is higher after than before, on the same answers.

    The interval is that of the difference: answers are drawn for both at once, so that what makes one answer
    hard for both does not count. Where it holds 0, nothing is shown to be won.
    """
    won, changed = _sums(kl_before) - _sums(kl_after), _sums(kl_base)
    return _share(won, changed, sum(map(len, kl_base)), "the adapter changes almost nothing")


def gain_kept(quantized: Sequence[Floats], tuned: Sequence[Floats], base: Sequence[Floats]) -> Share:
    """(L_q - L_b) / (L_t - L_b), where L are log-likelihoods of held-out answers that the tuning aimed at."""
    gained, kept = _sums(tuned) - _sums(base), _sums(quantized) - _sums(base)
    return _share(kept, gained, sum(map(len, tuned)), "the tuning gains almost nothing on this data")


def _sums(answers: Sequence[Floats]) -> Floats:
    return np.array([answer.sum(dtype=np.float64) for answer in answers])


def _share(kept: Floats, whole: Floats, tokens: int, too_little: str) -> Share:
    """`kept` and `whole` hold one sum an answer."""
    change = float(whole.sum()) / tokens
    if change < LEAST_CHANGE:
        nan = float("nan")  # a ratio of two rounding errors is no figure to show
        return Share(nan, nan, nan, change, f"{too_little} ({change:.2g} nats a token)")
    value = float(kept.sum() / whole.sum())
    if len(kept) < LEAST_ANSWERS:
        too_few = counted(len(kept), "answer is", "answers are")
        doubt = f"{too_few} too few to tell: give {LEAST_ANSWERS} chats or more with --eval"
        return Share(value, float("nan"), float("nan"), change, doubt)
    low, high = _interval(kept, whole)
    # NaN, from a draw without any change, is no narrow interval either
    doubt = "" if high - low <= WIDEST else "the interval is wide: give more chats with --eval"
    return Share(value, low, high, change, doubt)


def _interval(kept: Floats, whole: Floats) -> tuple[float, float]:
    """The middle of the ratios of sums when as many answers are drawn with replacement.

    Answers are drawn, not tokens: those of one answer hang together. The middle is wider than 95 %, as draws
    from few answers vary less than answers do ("expanded percentile", Hesterberg, arXiv:1411.5279).
    """
    count = len(kept)
    tail = _tail(count)
    draws = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), _DRAWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (draws @ kept) / (draws @ whole)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def _tail(count: int) -> float:
    """The part of the draws to leave out at each end; 0.025 for many answers.

    Student's t for count - 1 degrees of freedom by its expansion about the normal quantile (Abramowitz and
    Stegun, 26.7.5), which is right to the third digit from 4 on.
    """
    z, freedom = _NORMAL.inv_cdf(0.975), count - 1
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    t = z + first / freedom + second / freedom**2 + third / freedom**3
    return _NORMAL.cdf(-t * math.sqrt(count / freedom))
