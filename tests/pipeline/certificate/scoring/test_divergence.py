"""KL divergence against a brute-force computation in plain Python, including float16 storage."""

from __future__ import annotations

import math

import numpy as np

from pipeline.certificate.scoring.metrics import log_softmax, summarize, token_scores


def logits(seed: int, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (5, 1000)).astype(np.float32)


def brute_kl(tuned: np.ndarray, other: np.ndarray) -> list[float]:
    def probabilities(row: np.ndarray) -> list[float]:
        weights = [math.exp(float(x) - float(max(row))) for x in row]
        return [weight / math.fsum(weights) for weight in weights]

    pairs = [(probabilities(t), probabilities(o)) for t, o in zip(tuned, other, strict=True)]
    return [math.fsum(p * math.log(p / q) for p, q in zip(t, o, strict=True)) for t, o in pairs]


def test_kl_agrees_with_brute_force_though_one_side_is_stored_in_float16() -> None:
    tuned = logits(1)
    for other in (logits(2), tuned + 0.05 * logits(3, 1.0)):
        found = token_scores(log_softmax(tuned).astype(np.float16), log_softmax(other), [0, 1, 2, 3, 4])
        np.testing.assert_allclose(found.kl, brute_kl(tuned, other), rtol=2e-3, atol=1e-5)


def test_a_model_does_not_diverge_from_itself() -> None:
    found = token_scores(log_softmax(logits(1)).astype(np.float16), log_softmax(logits(1)), [0] * 5)
    assert found.kl.max() < 1e-6
    assert found.agree.all()


def test_tokens_that_cannot_come_add_nothing_and_broken_logits_stay_visible() -> None:
    tuned, other = logits(1), logits(2)
    tuned[:, 7] = other[:, 7] = -np.inf
    assert np.isfinite(token_scores(log_softmax(tuned), log_softmax(other), [0] * 5).kl).all()
    other[2, 3] = np.nan
    assert np.isnan(token_scores(log_softmax(tuned), log_softmax(other), [0] * 5).kl[2])


def test_the_perplexity_ratio_and_the_agreement_are_of_the_answers_tokens() -> None:
    tuned, other = log_softmax(logits(1)), log_softmax(logits(2))
    tokens = [9, 8, 7, 6, 5]
    score = token_scores(tuned, other, tokens)
    lost = [float(tuned[n, token] - other[n, token]) for n, token in enumerate(tokens)]
    found = summarize([score], np.array(lost))
    assert math.isclose(found.perplexity_ratio, math.exp(sum(lost) / 5), rel_tol=1e-6)
    assert found.agreement == sum(map(bool, tuned.argmax(1) == other.argmax(1))) / 5
    np.testing.assert_allclose(score.log_p, [other[n, token] for n, token in enumerate(tokens)])
