"""KL divergence from the tuned model, and survival: the share of an adapter's change left after quantization.

Survival is our own measure; docs/survival.md defines it and shows what it can and cannot measure.
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
    """Scores of a model on one answer: [tokens] each.

    `kl` is KL(tuned || other) in nats, `agree` is true where both have the same most likely token, and
    `log_p` is the other model's log-probability of the answer's token.
    """

    kl: Floats
    agree: NDArray[np.bool_]
    log_p: Floats

    @property
    def is_finite(self) -> bool:
        """True when no value is NaN or infinite."""
        return bool(np.isfinite(self.kl).all() and np.isfinite(self.log_p).all())


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-probabilities of each row: [tokens, vocabulary]."""
    shifted: NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    shifted -= np.log(total).astype(np.float32)
    return shifted


def token_scores(tuned: NDArray[Any], other: NDArray[np.float32], tokens: Sequence[int]) -> TokenScores:
    """Score one answer, given two models' log-probabilities on it: [tokens, vocabulary] each.

    `tuned` may be float16: its rows are normalised again, since the rounding error of their sum would enter
    the divergence at first order (1e-4); the error that remains enters at second order (1e-7).
    """
    t = log_softmax(tuned.astype(np.float32))
    p = np.exp(t)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (t - other), 0)  # an impossible token adds nothing, not NaN
    kl = terms.sum(axis=-1, dtype=np.float64)
    return TokenScores(
        np.where(kl < 0, 0, kl),  # negative only by rounding; NaN stays
        tuned.argmax(axis=-1) == other.argmax(axis=-1),
        log_p_of(other, tokens),
    )


def log_p_of(log_probabilities: NDArray[np.float32], tokens: Sequence[int]) -> Floats:
    """Return the log-probability of each token: [tokens], out of [tokens, vocabulary]."""
    return log_probabilities[np.arange(len(tokens)), list(tokens)].astype(np.float64)


@dataclass(frozen=True)
class Divergence:
    """Means over all tokens: KL in nats, its 99th percentile, top-1 agreement, ratio of perplexities q / t.

    The field names are keys of certificate.json.
    """

    tokens: int
    mean_kl: float
    p99_kl: float
    agreement: float
    perplexity_ratio: float


def summarize(scores: Sequence[TokenScores], log_ratios: Floats) -> Divergence:
    """Summarize all answers; `log_ratios` [tokens] are log p_t - log p_q, for the ratio of perplexities."""
    kl = np.concatenate([score.kl for score in scores])
    agree = np.concatenate([score.agree for score in scores])
    return Divergence(
        len(kl),
        float(kl.mean()),
        float(np.quantile(kl, 0.99)),
        float(agree.mean()),
        float(np.exp(log_ratios.mean())),
    )


MIN_CHANGE = 0.02
"""Nats a token. Smaller changes drown in rounding: Q8_0, the mildest type, moves a model by 0.004."""


MIN_ANSWERS = 5
"""With fewer answers the interval contains the true share much less often than 95 % of the time."""


MAX_INTERVAL = 0.3
"""A wider interval cannot separate "good" from "lost"."""


_NORMAL = NormalDist()
_DRAWS = 2000
_SEED = 20240


@dataclass(frozen=True)
class Share:
    """A share of a change with its 95 % interval; NaN when the change is too small.

    With few answers the interval contains the true share less often (docs/survival.md). `change` is the
    whole, in nats a token. `doubt` says why the figure is unreliable; empty when it is reliable. The field
    names are keys of certificate.json.
    """

    value: float
    low: float
    high: float
    change: float
    doubt: str = ""

    @property
    def reliable(self) -> bool:
        """True when the figure is meaningful."""
        return not self.doubt


def survival(kl_quantized: Sequence[Floats], kl_base: Sequence[Floats]) -> Share:
    """Return 1 - KL(t||q) / KL(t||b), of sums over all tokens, given one array [tokens] per answer.

    Below 0 when the quantized model is further from the tuned one than the base is.
    """
    lost, changed = _sums(kl_quantized), _sums(kl_base)
    return _share(changed - lost, changed, sum(map(len, kl_base)), "the adapter changes almost nothing")


def survival_gain(
    kl_before: Sequence[Floats], kl_after: Sequence[Floats], kl_base: Sequence[Floats]
) -> Share:
    """Return the increase of survival from before to after, on the same answers: one array [tokens] each.

    The interval is that of the difference: answers are drawn for both at once, so that an answer that is hard
    for both does not count. If it contains 0, no gain is shown.
    """
    won, changed = _sums(kl_before) - _sums(kl_after), _sums(kl_base)
    return _share(won, changed, sum(map(len, kl_base)), "the adapter changes almost nothing")


def gain_kept(quantized: Sequence[Floats], tuned: Sequence[Floats], base: Sequence[Floats]) -> Share:
    """Return (L_q - L_b) / (L_t - L_b), with L the log-likelihood of held-out answers, [tokens] each."""
    gained, left = _sums(tuned) - _sums(base), _sums(quantized) - _sums(base)
    return _share(left, gained, sum(map(len, tuned)), "the tuning gains almost nothing on this data")


def _sums(answers: Sequence[Floats]) -> Floats:
    return np.array([answer.sum(dtype=np.float64) for answer in answers])


def _share(part: Floats, whole: Floats, tokens: int, too_little: str) -> Share:
    """Return the share of `part` in `whole`, which hold one sum per answer: [answers]."""
    change = float(whole.sum()) / tokens
    if change < MIN_CHANGE:
        nan = float("nan")  # a ratio of two rounding errors is meaningless
        return Share(nan, nan, nan, change, f"{too_little} ({change:.2g} nats a token)")
    value = float(part.sum() / whole.sum())
    if len(part) < MIN_ANSWERS:
        too_few = pluralize(len(part), "answer is", "answers are")
        doubt = f"{too_few} too few to tell: give {MIN_ANSWERS} chats or more with --eval"
        return Share(value, float("nan"), float("nan"), change, doubt)
    low, high = bootstrap_interval(part, whole)
    # NaN, from a draw without any change, counts as wide
    doubt = "" if high - low <= MAX_INTERVAL else "the interval is wide: give more chats with --eval"
    return Share(value, low, high, change, doubt)


def bootstrap_interval(part: Floats, whole: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of sum(part) / sum(whole), over answers drawn with replacement.

    Both are [answers], of two or more, and of `MIN_ANSWERS` to be right. Answers are drawn, not tokens: those
    of one answer are correlated. The interval spans more than the middle 95 %, as draws from few answers vary
    less than answers do ("expanded percentile", Hesterberg, arXiv:1411.5279).
    """
    count = len(part)
    tail = _tail(count)
    draws = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), _DRAWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (draws @ part) / (draws @ whole)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def _tail(count: int) -> float:
    """Return the fraction of the draws to cut off at each end; 0.025 for many answers.

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
"""Shares of the adapter's change."""


SURVIVAL_REASON = (
    f"At least {GOOD_SURVIVAL:.0%} of what the adapter changed; below {BAD_SURVIVAL:.0%} the error is larger "
    "than what is left of the tuning."
)
