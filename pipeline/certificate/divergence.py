"""How far one model's next-token probabilities are from another's. Numpy alone; sums are in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
