"""Losses with intervals, against values that are known from elsewhere."""

from __future__ import annotations

import json
import math
import random

import pytest

from pipeline.evaluation.statistics import (
    NO_CATEGORY,
    RowLoss,
    by_category,
    compare,
    compare_in_memory,
    summarize,
    wilson_interval,
)


def rows(*nats: float, tokens: int = 1, category: str | None = None) -> list[RowLoss]:
    return [RowLoss(one, tokens, category) for one in nats]


# R: prop.test(k, n, correct = FALSE)$conf.int
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (15, 20, 0.5313, 0.8881),
        (81, 263, 0.2553, 0.3662),  # Newcombe, 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval_equals_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_of_a_share_ends_at_0_and_1() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_proportion_is_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson_interval(successes, trials)


def test_the_loss_is_a_mean_over_tokens_not_rows() -> None:
    summary = summarize([RowLoss(2.0, 1), RowLoss(4.0, 7)])
    assert (summary.loss, summary.rows, summary.tokens) == (0.75, 2, 8)
    assert summary.perplexity == pytest.approx(2.117, abs=1e-3)
    assert math.isnan(summary.low) and math.isnan(summary.high)  # of two rows


def test_the_interval_is_students_for_normal_rows() -> None:
    rng = random.Random(1)
    nats = [rng.gauss(3, 0.5) for _ in range(200)]
    mean = sum(nats) / 200
    error = math.sqrt(sum((one - mean) ** 2 for one in nats) / 199 / 200)
    summary = summarize(rows(*nats))
    assert (summary.low, summary.high) == pytest.approx(
        (mean - 1.972 * error, mean + 1.972 * error), abs=0.006
    )
    assert summarize(rows(*nats)) == summary  # seeded


def test_equal_rows_have_an_interval_of_one_point() -> None:
    summary = summarize(rows(*[1.5] * 8, tokens=3))
    assert (summary.low, summary.high) == (0.5, 0.5)


def test_the_interval_contains_the_true_loss_as_often_as_it_says() -> None:
    rng = random.Random(2)
    hits = 0
    for _ in range(200):
        summary = summarize(rows(*[rng.gauss(2, 0.3) for _ in range(20)]))
        hits += summary.low <= 2 <= summary.high
    assert 180 <= hits <= 198


def test_a_loss_too_large_for_exp_is_infinitely_perplexing() -> None:
    assert summarize(rows(800.0)).perplexity == math.inf


def test_categories_are_summarized_apart_in_the_order_of_their_names() -> None:
    found = by_category([*rows(2.0, 4.0, category="code"), *rows(1.0, category="books"), *rows(9.0)])
    assert [(name, one.loss, one.rows) for name, one in found.items()] == [
        (NO_CATEGORY, 9.0, 1),
        ("books", 1.0, 1),
        ("code", 3.0, 2),
    ]
    assert by_category(rows(1.0, 2.0)) == {}


def test_compare_counts_the_rows_that_the_tuned_model_finds_likelier() -> None:
    base = rows(2.0, 2.0, 2.0, 2.0, 2.0, tokens=2)
    tuned = rows(1.0, 1.0, 1.0, 2.0, 2.5, tokens=2)
    found = compare(base, tuned)
    assert (found.better, found.rows, found.share) == (3, 5, 0.6)
    assert (found.low, found.high) == pytest.approx((0.2307, 0.8824), abs=5e-5)
    assert found.gain == pytest.approx(0.25)
    assert found.gain_low < 0.25 < found.gain_high


def test_the_paired_interval_leaves_out_what_is_hard_for_both() -> None:
    hard = [float(one) for one in range(1, 31)]
    found = compare(rows(*hard), rows(*[one - 0.5 for one in hard]))
    assert (found.gain_low, found.gain_high) == pytest.approx((0.5, 0.5))
    summary = summarize(rows(*hard))
    assert summary.high - summary.low > 5


@pytest.mark.parametrize(
    ("base", "tuned"),
    [
        (rows(1.0), rows(1.0, 2.0)),
        (rows(1.0, tokens=2), rows(1.0, tokens=3)),
        (rows(1.0, category="a"), rows(1.0, category="b")),
    ],
)
def test_different_rows_are_not_compared(base: list[RowLoss], tuned: list[RowLoss]) -> None:
    with pytest.raises(ValueError, match="different rows"):
        compare(base, tuned)


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="no row"):
        summarize([])
    with pytest.raises(ValueError, match="no row"):
        compare([], [])
    with pytest.raises(ValueError, match="one token or more"):
        RowLoss(1.0, 0)


def test_the_summary_of_a_report_is_json_with_none_for_unknown_intervals() -> None:
    base = [*rows(2.0, 2.0, 2.0, 2.0, category="a"), *rows(3.0, category="b")]
    tuned = [*rows(1.0, 1.0, 1.0, 2.5, category="a"), *rows(2.0, category="b")]
    summary = compare_in_memory(base, tuned)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["base"]["loss"] == 2.2
    assert summary["tuned"]["low"] < 1.5 < summary["tuned"]["high"]
    assert summary["paired"]["better"] == 4
    assert list(summary["categories"]) == ["a", "b"]
    assert summary["categories"]["a"]["paired"]["share"] == 0.75
    assert summary["categories"]["b"]["base"]["low"] is None
    assert compare_in_memory(rows(1.0), rows(0.5))["categories"] == {}
