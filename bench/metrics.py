"""Metrics from the timestamps of answers: throughput, time to first token, gaps; medians and ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Answer:
    """One answer as its user saw it: when the question was sent and when each piece of text arrived.

    Times are seconds of one clock; `turn` counts from 1. `cached_tokens` are prompt tokens that were not
    computed again; 0 where the contender does not report them.
    """

    turn: int
    sent: float
    pieces: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int
    tokens: int


@dataclass(frozen=True)
class Figures:
    """One run, or the median of several. Times in seconds, rates in tokens/s, memory in bytes.

    `decode_rate` is the mean over answers, each from its first token to its last. `later_ttft_mean` covers
    turn 2 and later. `outside_decode` is the share of the run that the engine spent outside of llama_decode.
    A figure that does not apply is NaN.
    """

    throughput: float
    ttft_mean: float
    ttft_p95: float
    later_ttft_mean: float
    gap_p95: float
    decode_rate: float
    peak_bytes: float
    prompt_tokens: float
    cached_tokens: float
    tokens: float
    outside_decode: float = math.nan


def figures_of(answers: Sequence[Answer], peak_bytes: int, outside_decode: float = math.nan) -> Figures:
    """Return the figures of a run's answers. All use one clock; every answer has at least one piece."""
    waits = [answer.pieces[0] - answer.sent for answer in answers]
    later = [wait for answer, wait in zip(answers, waits, strict=True) if answer.turn > 1]
    gaps = [b - a for answer in answers for a, b in zip(answer.pieces, answer.pieces[1:], strict=False)]
    wall = max(answer.pieces[-1] for answer in answers) - min(answer.sent for answer in answers)
    return Figures(
        throughput=sum(answer.tokens for answer in answers) / wall,
        ttft_mean=statistics.fmean(waits),
        ttft_p95=percentile(waits, 0.95),
        later_ttft_mean=statistics.fmean(later) if later else math.nan,
        gap_p95=percentile(gaps, 0.95),
        decode_rate=statistics.fmean(map(decode_rate, answers)),
        peak_bytes=peak_bytes,
        prompt_tokens=statistics.fmean(answer.prompt_tokens for answer in answers),
        cached_tokens=statistics.fmean(answer.cached_tokens for answer in answers),
        tokens=statistics.fmean(answer.tokens for answer in answers),
        outside_decode=outside_decode,
    )


def decode_rate(answer: Answer) -> float:
    """Return the tokens/s after the first token; NaN for an answer of a single piece."""
    seconds = answer.pieces[-1] - answer.pieces[0]
    return (answer.tokens - 1) / seconds if seconds > 0 else math.nan


def percentile(values: Sequence[float], share: float) -> float:
    """Return the `share` quantile (0 to 1), interpolated between neighbours; NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median_of(runs: Sequence[Figures]) -> Figures:
    """Return the median of each field, so that a disturbance of one run does not spoil the result."""
    return Figures(
        **{f.name: statistics.median(getattr(run, f.name) for run in runs) for f in fields(Figures)}
    )


def ratio(ours: float, theirs: float) -> float:
    """Return ours over theirs; NaN where either is missing."""
    return ours / theirs if theirs else math.nan
