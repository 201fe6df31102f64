"""Survival of a tuning: how much of what an adapter changed is still there after quantization.

Our own measure; docs/survival.md defines it and shows what it can and cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.text import pluralize

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenScores:
    """Of one answer, token by token: [tokens] each.

    `kl` is KL(tuned || other) in nats, `agree` whether both find the same token likeliest, `log_p` the
    other's log-probability of the token that stands in the answer.
    """

    kl: Floats
    agree: NDArray[np.bool_]
    log_p: Floats

    @property
    def finite(self) -> bool:
        """Whether all are numbers."""
        return bool(np.isfinite(self.kl).all() and np.isfinite(self.log_p).all())


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities of each row: [tokens, vocabulary]."""
    shifted: NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    shifted -= np.log(total).astype(np.float32)
    return shifted


def token_scores(tuned: NDArray[Any], other: NDArray[np.float32], tokens: Sequence[int]) -> TokenScores:
    """Log-probabilities of two models on one answer, [tokens, vocabulary] each.

    `tuned` may be float16: its rows are normalised again, since the error that rounding leaves in their sum
    would enter the divergence at first order (1e-4); of what is left then, it takes the square (1e-7).
    """
    t = log_softmax(tuned.astype(np.float32))
    p = np.exp(t)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (t - other), 0)  # a token that cannot come adds nothing, not NaN
    kl = terms.sum(axis=-1, dtype=np.float64)
    return TokenScores(
        np.where(kl < 0, 0, kl),  # rounding alone; NaN stays
        tuned.argmax(axis=-1) == other.argmax(axis=-1),
        log_p_of(other, tokens),
    )


def log_p_of(log_probabilities: NDArray[np.float32], tokens: Sequence[int]) -> Floats:
    """The log-probability of each token of the answer: [tokens]."""
    return log_probabilities[np.arange(len(tokens)), list(tokens)].astype(np.float64)


@dataclass(frozen=True)
class Divergence:
    """Means over all tokens: KL in nats and its 99th percentile, top-1 agreement, perplexity q : t."""

    tokens: int
    mean_kl: float
    p99_kl: float
    agreement: float
    perplexity_ratio: float


def summarize(scores: Sequence[TokenScores], gained: Floats) -> Divergence:
    """Over all answers; `gained` is log p_t - log p_q of the tokens that the perplexities are of."""
    kl = np.concatenate([score.kl for score in scores])
    agree = np.concatenate([score.agree for score in scores])
    return Divergence(
        len(kl),
        float(kl.mean()),
        float(np.quantile(kl, 0.99)),
        float(agree.mean()),
        float(np.exp(gained.mean())),
    )


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


def survival_gain(
    kl_before: Sequence[Floats], kl_after: Sequence[Floats], kl_base: Sequence[Floats]
) -> Share:
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
        too_few = pluralize(len(kept), "answer is", "answers are")
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


GOOD_KL, BAD_KL = 0.1, 0.5
"""Nats a token."""


KL_REASON = (
    f"KL of at most {GOOD_KL} nats a token: a text then surprises the file about a tenth more than the "
    f"model; above {BAD_KL} it is another model's text."
)
GOOD_SURVIVAL, BAD_SURVIVAL = 0.95, 0.5
"""Shares of what the adapter changed."""


SURVIVAL_REASON = (
    f"At least {GOOD_SURVIVAL:.0%} of what the adapter changed; below {BAD_SURVIVAL:.0%} the error is larger "
    "than what is left of the tuning."
)
