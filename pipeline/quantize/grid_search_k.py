"""The search for the scales of a super-block on whose grid all its numbers lie, compiled by numba.

A K type stores whole multiples of one float16 for the steps of its blocks, and of another for their minimums.
From a block's numbers follows the interval of its step; the float16 is sought for which all blocks' steps are
whole multiples, then the one for the minimums. ggml gives the largest step the largest multiple, so few
candidates are left. What is found is checked against every number before it counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.quantize.grid_search import (
    MARGIN,
    SMALLEST,
    Block,
    Codes,
    f16_step,
    half_step,
    precision,
    rounds_to,
)
from pipeline.quantize.k_quant_search import Floats, kernel

SUPER = 256
_BELOW_TOP = 12  # multiples below the highest that the largest step may have


Whole = NDArray[np.int16]


class SuperFound(NamedTuple):
    """For super-blocks [n]: whether scales were found, d and dmin, and their blocks' multiples and codes.

    `d` and `d_min` are [n], `scales` and `minimums` [n, blocks], `codes` [n, blocks, numbers]. A value is
    d * scale * level - d_min * minimum. Levels are the codes, or the codes less half of their number for a
    type without minimums.
    """

    found: NDArray[np.bool_]
    d: Floats
    d_min: Floats
    scales: Whole
    minimums: Whole
    codes: Codes


class _Steps(NamedTuple):
    """For each block: the interval of its coarsest step, and how many steps its numbers span.

    A block whose numbers are all equal, or all zero where zero is the origin, spans none.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    spans: NDArray[np.int64]


class _Super(NamedTuple):
    """A super-block x [blocks, numbers], stored with `bits` of precision, and what its type allows.

    Scales and minimums are multiples up to `most`, a block's numbers span up to `span` steps.
    """

    x: Floats
    bits: int
    steps: _Steps
    most: int
    span: int


def new_super_found(count: int, blocks: int) -> SuperFound:
    """Return the arrays for a search over that many super-blocks, in which nothing is found yet."""
    d, d_min = np.zeros((2, count), np.float32)
    scales, minimums = np.zeros((2, count, blocks), np.int16)
    codes = np.zeros((count, blocks, SUPER // blocks), np.uint8)
    return SuperFound(np.zeros(count, np.bool_), d, d_min, scales, minimums, codes)


@kernel
def _step_interval(block: Block, origin: float, margin: float, step: float) -> tuple[float, float]:
    """Return the interval of the step, near `step`, for which all numbers are whole steps from `origin`.

    `margin` is how far the origin may be off. The interval is empty where there is none: (1, 0).
    """
    low, high = 0.0, np.inf
    for value in block.x:
        away = float(value) - origin
        multiple = abs(np.round(away / step))
        off = (half_step(float(value), block.bits) + margin) * MARGIN
        if multiple == 0:
            if abs(away) > off:
                return 1.0, 0.0
            continue
        low, high = max(low, (abs(away) - off) / multiple), min(high, (abs(away) + off) / multiple)
        if low > high:
            return 1.0, 0.0
    return low, high


@kernel
def _find_steps(whole: _Super, symmetric: bool) -> bool:
    """Find each block's coarsest step, from the lowest number or zero; return False where one has none."""
    steps = whole.steps
    for i in range(whole.x.shape[0]):
        block = Block(whole.x[i], whole.bits)
        low, high = float(block.x.min()), float(block.x.max())
        origin, margin, width = low, half_step(low, whole.bits), high - low
        if symmetric:
            origin, margin, width = 0.0, 0.0, max(-low, high)
        steps.low[i] = steps.high[i] = 0.0
        steps.spans[i] = 0
        for count in range(1, whole.span + 1 if width > 0 else 1):
            first, last = _step_interval(block, origin, margin, width / count)
            if first <= last:
                steps.low[i], steps.high[i], steps.spans[i] = first, last, count
                break
        if width > 0 and steps.spans[i] == 0:
            return False
    return True


@kernel
def may_lie_on_grid(x: Floats, span: int, symmetric: bool, out: NDArray[np.bool_]) -> None:
    """Find the super-blocks x [n, blocks, numbers] whose first block has a step: no ordinary ones."""
    steps = _Steps(np.zeros(1), np.zeros(1), np.zeros(1, np.int64))
    for n in range(x.shape[0]):
        out[n] = _find_steps(_Super(x[n, :1], precision(x[n, 0]), steps, 0, span), symmetric)


@kernel
def _with_steps(x: Floats, most: int, span: int, symmetric: bool, steps: _Steps) -> _Super:
    """Return a super-block after finding its steps; with no bits of precision where a block has none."""
    whole = _Super(x, precision(x.ravel()), steps, most, span)
    if np.abs(x).max() >= SMALLEST and _find_steps(whole, symmetric):
        return whole
    return _Super(x, 0, steps, most, span)


@kernel
def _multiple(steps: _Steps, i: int, d: float, factor: int) -> int:
    """Return which multiple of d a block's step is, when it is split by `factor`; 0 for none."""
    near = int(np.round((steps.low[i] + steps.high[i]) / (2 * factor * d)))
    return near if steps.low[i] <= near * factor * d <= steps.high[i] else 0


@kernel
def _encode(block: Block, step: float, minimum: float, bottom: int, out: Codes) -> float:
    """Write the codes of a block, which are levels less `bottom`; return the squared error.

    It is -1 where a number would be stored as another one.
    """
    total = 0.0
    for i in range(block.x.shape[0]):
        value = float(block.x[i])
        level = 0.0 if step == 0 else np.round((value + minimum) / step)
        exact = float(np.float32(step * level - minimum))
        if not (0 <= level - bottom <= 255 and rounds_to(exact, value, block.bits)):
            return -1.0
        out[i] = int(level) - bottom
        total += (exact - value) ** 2
    return total


@kernel
def _candidates(whole: _Super, rank: int, factor: int, below: int) -> tuple[float, float]:
    """Return the first and the last float16 that d may be in one of the possible cases; (1, 0) without.

    The case: a block has the multiple `most - below`, and its numbers are `factor` times as many steps apart.
    The block of rank 0 is the one with the largest step, then follow all blocks.
    """
    steps = whole.steps
    i = int(np.argmax(steps.low)) if rank == 0 else rank - 1
    if steps.spans[i] * factor > whole.span or steps.spans[i] == 0 or (below and factor > 1):
        return 1.0, 0.0
    divisor = factor * (whole.most - below)
    start = steps.low[i] / divisor
    return math.ceil(start / f16_step(start)) * f16_step(start), steps.high[i] / divisor


@kernel
def _encode_scaled(whole: _Super, d: float, scales: Whole, codes: Codes) -> float:
    """Write all blocks with steps that are multiples of d; return the squared error, -1 where it fails."""
    total, half = 0.0, whole.span
    for i in range(whole.x.shape[0]):
        block = Block(whole.x[i], whole.bits)
        error = _encode(block, 0.0, 0.0, -half, codes[i])  # all zeros
        scales[i] = 0
        for factor in range(1, half // max(1, whole.steps.spans[i]) + 1):
            near = _multiple(whole.steps, i, d, factor)
            for scale in (near, -near):
                if error < 0 and scale != 0 and -whole.most <= scale < whole.most:
                    error = _encode(block, d * scale, 0.0, -half, codes[i])
                    error = -1.0 if codes[i].max() >= 2 * half else error
                    scales[i] = scale if error >= 0 else 0
        if error < 0:
            return -1.0
        total += error
    return total


@kernel
def _scaled(whole: _Super, out: SuperFound, n: int) -> bool:
    """Search the best d of a super-block without minimums, and write what is found."""
    scales, codes, best, least = out.scales[n], out.codes[n], 0.0, np.inf
    for rank in range(whole.x.shape[0] + 1):
        for case in range(whole.span * _BELOW_TOP):
            d, end = _candidates(whole, rank, case // _BELOW_TOP + 1, case % _BELOW_TOP)
            while 0 < d <= end:
                for signed in (-d, d):
                    error = _encode_scaled(whole, signed, scales, codes)
                    if 0 <= error < least:
                        best, least = signed, error
                d += f16_step(d)
            if best != 0:
                _encode_scaled(whole, best, scales, codes)
                out.d[n] = best
                return True
    return False


@kernel
def search_super_scaled(x: Floats, most: int, half: int, out: SuperFound) -> None:
    """Search the scales of super-blocks x [n, blocks, numbers].

    Scales are multiples from -most to most - 1, levels go from -half to half - 1.
    """
    blocks = x.shape[1]
    steps = _Steps(np.zeros(blocks), np.zeros(blocks), np.zeros(blocks, np.int64))
    for n in range(x.shape[0]):
        whole = _with_steps(x[n], most, half, True, steps)
        out.found[n] = whole.bits != 0 and _scaled(whole, out, n)


@kernel
def _minimum_interval(block: Block, step: float, first: int) -> tuple[float, float]:
    """Return the interval of a block's minimum when its lowest number has the code `first`."""
    low, high, lowest = -np.inf, np.inf, float(block.x.min())
    for value in block.x:
        code = first + (np.round((float(value) - lowest) / step) if step != 0 else 0.0)
        off = half_step(float(value), block.bits) * MARGIN
        low, high = max(low, step * code - value - off), min(high, step * code - value + off)
    return low, high


@kernel
def _encode_minimums(whole: _Super, d: float, d_min: float, out: SuperFound, n: int) -> float:
    """Write all blocks, whose scales are known, with minimums that are whole multiples of d_min.

    Returns the squared error, -1 where it fails.
    """
    total = 0.0
    for i in range(whole.x.shape[0]):
        block, step, error = Block(whole.x[i], whole.bits), d * out.scales[n, i], -1.0
        width = float(block.x.max()) - float(block.x.min())
        span = int(np.round(width / step)) if step != 0 else whole.span
        for first in range(whole.span - span + 1):
            low, high = _minimum_interval(block, step, first)
            near = np.round((low + high) / (2 * d_min)) if d_min > 0 else 0.0
            if low <= near * d_min <= high and 0 <= near <= whole.most:
                out.minimums[n, i] = int(near)
                error = _encode(block, step, d_min * near, 0, out.codes[n, i])
                error = -1.0 if out.codes[n, i].max() > whole.span else error
            if error >= 0:
                break
        if error < 0:
            return -1.0
        total += error
    return total


@kernel
def _search_minimum(whole: _Super, d: float, out: SuperFound, n: int) -> tuple[float, float]:
    """Return the best d_min of a super-block with known scales, and the squared error, -1 without one."""
    deepest, least, last = 0.0, 0.0, 0.0
    for i in range(whole.x.shape[0]):
        low, high = _minimum_interval(Block(whole.x[i], whole.bits), d * out.scales[n, i], 0)
        if low > high:
            return 0.0, -1.0
        if low + high > deepest:
            deepest, least, last = low + high, low, high
    if least <= 0:
        error = _encode_minimums(whole, d, 0.0, out, n)
        if error >= 0:
            return 0.0, error
    best, smallest = 0.0, np.inf
    for below in range(_BELOW_TOP):
        start, end = max(least / (whole.most - below), 2.0**-24), last / (whole.most - below)
        d_min = math.ceil(start / f16_step(start)) * f16_step(start)
        while d_min <= end:
            error = _encode_minimums(whole, d, d_min, out, n)
            if 0 <= error < smallest:
                best, smallest = d_min, error
            d_min += f16_step(d_min)
        if best > 0:
            return best, smallest
    return 0.0, -1.0


@kernel
def _choose_scales(whole: _Super, d: float, out: Whole) -> bool:
    """Find each block's multiple of d. Returns False where a block has none."""
    for i in range(out.shape[0]):
        count = whole.steps.spans[i]
        out[i] = 0
        for factor in range(1, whole.span // count + 1 if count else 1):
            near = _multiple(whole.steps, i, d, factor)
            if out[i] == 0 and 0 < near <= whole.most:
                out[i] = near
        if out[i] == 0 and count != 0:
            return False
    return True


@kernel
def _affine(whole: _Super, out: SuperFound, n: int) -> bool:
    """Search the best d and d_min of a super-block with minimums, and write what is found."""
    best, best_min, least = 0.0, 0.0, np.inf
    for rank in range(whole.x.shape[0] + 1):
        for case in range(whole.span * _BELOW_TOP):
            d, end = _candidates(whole, rank, case // _BELOW_TOP + 1, case % _BELOW_TOP)
            while 0 < d <= end:
                if _choose_scales(whole, d, out.scales[n]):
                    d_min, error = _search_minimum(whole, d, out, n)
                    if 0 <= error < least:
                        best, best_min, least = d, d_min, error
                d += f16_step(d)
            if best > 0:
                _choose_scales(whole, best, out.scales[n])
                _encode_minimums(whole, best, best_min, out, n)
                out.d[n], out.d_min[n] = best, best_min
                return True
    return False


@kernel
def search_super_affine(x: Floats, most: int, top: int, out: SuperFound) -> None:
    """Search scales and minimums of super-blocks x [n, blocks, numbers].

    Scales and minimums are multiples up to `most`, codes go up to `top`.
    """
    blocks = x.shape[1]
    steps = _Steps(np.zeros(blocks), np.zeros(blocks), np.zeros(blocks, np.int64))
    for n in range(x.shape[0]):
        whole = _with_steps(x[n], most, top, False, steps)
        out.found[n] = whole.bits != 0 and _affine(whole, out, n)
