from __future__ import annotations

import math

import pytest

from bench.metrics import Answer, Figures, decode_rate, figures_of, median_of, percentile, ratio


def answer(sent: float, *pieces: float, turn: int = 1, tokens: int = 0) -> Answer:
    return Answer(turn, sent, pieces, 10, 4, tokens or len(pieces))


def test_percentile_interpolates() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([0, 10], 0.95) == pytest.approx(9.5)
    assert percentile([7], 0.95) == 7
    assert math.isnan(percentile([], 0.5))


def test_throughput_is_over_the_whole_run() -> None:
    figures = figures_of([answer(0, 1, 2, 3), answer(1, 3, 4, 5)], 0)
    assert figures.throughput == pytest.approx(6 / 5)


def test_first_tokens_and_gaps() -> None:
    figures = figures_of([answer(0, 1, 1.5), answer(10, 12, 12.1), answer(20, 20.5, 21, turn=2)], 7)
    assert figures.ttft_mean == pytest.approx((1 + 2 + 0.5) / 3)
    assert figures.later_ttft_mean == pytest.approx(0.5)
    assert figures.gap_p95 == pytest.approx(0.5)
    assert figures.peak_bytes == 7
    assert (figures.prompt_tokens, figures.cached_tokens) == (10, 4)


def test_one_turn_has_no_later_turns() -> None:
    assert math.isnan(figures_of([answer(0, 1, 2)], 0).later_ttft_mean)


def test_decode_rate_leaves_out_the_first_token() -> None:
    assert decode_rate(answer(0, 5, 6, 7)) == 1
    assert decode_rate(answer(0, 5, 7, tokens=5)) == 2  # a piece may hold several tokens
    assert math.isnan(decode_rate(answer(0, 5)))


def test_the_median_run_is_taken_field_by_field() -> None:
    runs = [figures_of([answer(0, wait, wait + 1)], 0) for wait in (1, 9, 2)]
    median: Figures = median_of(runs)
    assert median.ttft_mean == 2
    assert math.isnan(median.later_ttft_mean)


def test_a_ratio_without_a_peer_is_no_number() -> None:
    assert ratio(3, 2) == 1.5
    assert math.isnan(ratio(1, 0))
    assert math.isnan(ratio(1, math.nan))
