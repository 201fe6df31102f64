"""Survival: its definition, its interval, and the cases where it is reported as unreliable."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.certificate.scoring.metrics import MIN_ANSWERS, Share, gain_kept, survival, survival_gain

Answers = list[np.ndarray]


def answers(scale: float, count: int = 12) -> Answers:
    draw = np.random.default_rng(5)
    return [scale * draw.gamma(2.0, 0.5, draw.integers(5, 20)) for _ in range(count)]


def test_survival_is_one_for_the_tuned_model_zero_for_the_base_and_below_it_for_what_is_worse() -> None:
    base = answers(2.0)
    assert survival([0 * kl for kl in base], base).value == 1
    assert survival(base, base).value == 0
    assert survival([1.5 * kl for kl in base], base).value == pytest.approx(-0.5)


def test_what_is_won_is_the_difference_and_surer_than_the_two_it_is_of() -> None:
    base = answers(2.0)
    shares = np.linspace(0, 0.4, len(base))  # some answers are hard for both files
    before = [kl * share for kl, share in zip(base, shares, strict=True)]
    after = [kl * share * 0.9 for kl, share in zip(base, shares, strict=True)]
    won, single = survival_gain(before, after, base), survival(before, base)
    assert won.value == pytest.approx(survival(after, base).value - single.value)
    assert won.low > 0 and won.high - won.low < 0.2 * (single.high - single.low)
    assert survival_gain(base, base, base).high == 0


def test_survival_weighs_tokens_not_answers() -> None:
    found = survival([np.array([0.5]), np.array([0.0, 0.0, 0.0])], [np.ones(1), np.ones(3)])
    assert found.value == pytest.approx(1 - 0.5 / 4)


def test_the_interval_is_the_same_each_time_holds_the_value_and_comes_from_whole_answers() -> None:
    base = answers(2.0)
    lost = [kl * share for kl, share in zip(base, np.linspace(0, 0.4, len(base)), strict=True)]
    first, second = survival(lost, base), survival(lost, base)
    assert first == second
    assert 0 < first.value - first.low < 0.2 and 0 < first.high - first.value < 0.2
    repeated = survival([np.repeat(kl, 50) for kl in lost], [np.repeat(kl, 50) for kl in base])
    assert repeated.high - repeated.low == pytest.approx(
        first.high - first.low
    )  # more tokens, no more answers


def test_an_adapter_that_changes_almost_nothing_leaves_nothing_to_tell() -> None:
    found = survival(answers(1e-6), answers(1e-5))
    assert not found.reliable and "almost nothing" in found.doubt


def test_answers_that_disagree_widely_are_too_few() -> None:
    found = survival([np.zeros(5), np.full(5, 1.8), np.zeros(5)] * 2, [np.full(5, 2.0)] * 6)
    assert not found.reliable and "wide" in found.doubt and "--eval" in found.doubt


def test_few_answers_tell_nothing_however_alike_they_are() -> None:
    for count in (1, MIN_ANSWERS - 1):
        found = survival([np.full(5, 0.02)] * count, [np.ones(5)] * count)
        assert found.value == pytest.approx(0.98) and not found.reliable
        assert "too few" in found.doubt and "--eval" in found.doubt and np.isnan(found.low)
    assert survival([np.full(5, 0.02)] * MIN_ANSWERS, [np.ones(5)] * MIN_ANSWERS).reliable


def test_of_eight_answers_the_interval_holds_the_true_share_nine_times_in_ten() -> None:
    draw, held = np.random.default_rng(8), 0
    for _ in range(300):
        changed = draw.gamma(2, 10, 8)
        lost = changed * draw.beta(2, 40, 8)  # 1/21 in the mean
        found = survival([np.array([kl]) for kl in lost], [np.array([kl]) for kl in changed])
        held += found.low <= 1 - 2 / 42 <= found.high
    assert held >= 265  # the middle 95 % of the draws gives 252


def test_the_gain_that_is_kept_is_a_share_of_what_the_tuning_gained() -> None:
    base, tuned = [np.array([-4.0, -3.0])] * 6, [np.array([-1.0, -1.0])] * 6
    quantized = [np.array([-1.5, -1.0])] * 6
    assert gain_kept(tuned, tuned, base).value == 1
    assert gain_kept(base, tuned, base).value == 0
    assert gain_kept(quantized, tuned, base) == Share(0.9, 0.9, 0.9, 2.5)
    assert not gain_kept(quantized, base, tuned).reliable  # a tuning that made these answers less likely
