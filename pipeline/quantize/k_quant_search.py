"""The search for the scales of llama.cpp's K-quants, vectorized over blocks by numba.

llama.cpp tries 16 to 37 scales for each block of 16 or 32 numbers, one number at a time (ggml-quants.c,
make_qkx2_quants, make_qkx3_quants and make_qx_quants). Here a tile of 64 blocks is transposed, so that a step
of all 64 takes a few vector instructions. Within a block the order of additions is llama.cpp's: the results
are identical bit for bit.

numba compiles for this CPU, and neither contracts nor reorders float arithmetic. It vectorizes an innermost
loop over whole rows, with conditional values but no branches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., Any])
LANES = 64  # blocks side by side
_UNROLL = 8  # numbers of a block for which a lane's sums stay in registers
ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds to the nearest whole number
_ZERO, _ONE, _STEP, _INFINITY = np.float32(0), np.float32(1), np.float32(0.1), np.float32(np.inf)
TINY = np.float32(1e-15)  # GROUP_MAX_EPS


def kernel(function: F) -> F:
    """Compile for this CPU, with C's float arithmetic and without the GIL."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return cast("F", njit(cache=True, **options)(function))
    except RuntimeError:  # neither this file's folder nor the home can be written
        return cast("F", njit(**options)(function))


def phase(function: F) -> F:
    """Compile a part of a kernel, inlined so that the compiler sees that no two arrays overlap."""
    return cast("F", njit(inline="always", error_model="numpy")(function))


class _Tile(NamedTuple):
    """Blocks side by side: `x` and values per number, [n, lanes], and values per block, [lanes]."""

    x: Floats
    weight: Floats
    level: Floats
    low: Floats  # the best offset so far: x = scale * level + low
    high: Floats
    scale: Floats  # the best so far
    best: Floats  # its error, or its score
    factor: Floats  # under test: level = round(factor * (x - low))
    used: Floats  # the factor, and the offset, that gave the best levels
    offset: Floats
    fit: Floats  # the scale and the offset that fit the levels under test
    base: Floats
    error: Floats
    sum_w: Floats
    sum_x: Floats
    sum_l: Floats
    sum_l2: Floats
    sum_xl: Floats


@phase
def _lanes() -> Floats:
    return np.zeros(LANES, np.float32)


@phase
def _tile(n: int) -> _Tile:
    shape = (n, LANES)
    return _Tile(
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        *(_lanes(), _lanes(), _lanes(), _lanes(), _lanes(), _lanes(), _lanes(), _lanes()),
        *(_lanes(), _lanes(), _lanes(), _lanes(), _lanes(), _lanes(), _lanes()),
    )


@phase
def _fill(tile: _Tile, x: Floats, first: int) -> int:
    """Copy blocks of x from `first` on to the tile's columns; return how many."""
    count: int = min(LANES, x.shape[0] - first)
    for lane in range(count):
        for i in range(x.shape[1]):
            tile.x[i, lane] = x[first + lane, i]
    return count


@kernel
def search_with_minimum(x: Floats, weights: Floats, top: Any, tried: Floats, out: Floats) -> None:
    """Find x = scale * level - minimum with the least weighted error in each block, levels 0 to `top`.

    x, weights: [blocks, numbers]; with no weights, errors of larger numbers count more. out: [5, blocks] gets
    the scales, the minimums, the factors and the offsets that gave the levels (round(factor * (x - offset))),
    and the sums of the weights. Besides `top`, the block's range is divided into `top` + each of `tried`.
    """
    tile = _tile(x.shape[1])
    for first in range(0, x.shape[0], LANES):
        count = _fill(tile, x, first)
        _range(tile)
        if weights.shape[0]:
            _fill_weights(tile, weights, first)
        else:
            _weigh(tile)
        _span(tile, top)
        for more in tried:
            _levels(tile, more + top, top)
            _fit_both(tile)
            _keep_if_better(tile)
        for lane in range(count):
            flat = tile.high[lane] == tile.offset[lane]  # a block of one number, which is not above 0
            out[0, first + lane] = _ZERO if flat else tile.scale[lane]
            out[1, first + lane] = -tile.low[lane]
            out[2, first + lane] = _ZERO if flat else tile.used[lane]
            out[3, first + lane] = tile.offset[lane]
            out[4, first + lane] = tile.sum_w[lane]


@phase
def _fill_weights(tile: _Tile, weights: Floats, first: int) -> None:
    """Copy the weights of blocks from `first` on to the tile's columns."""
    for lane in range(min(LANES, weights.shape[0] - first)):
        for i in range(weights.shape[1]):
            tile.weight[i, lane] = weights[first + lane, i]


@phase
def _range(tile: _Tile) -> None:
    """Compute the range of each block, which includes 0."""
    x, low, high = tile.x, tile.low, tile.high
    for j in range(LANES):
        low[j] = high[j] = x[0, j]
    for i in range(x.shape[0]):
        for j in range(LANES):
            v = x[i, j]
            low[j] = v if v < low[j] else low[j]
            high[j] = v if v > high[j] else high[j]
    for j in range(LANES):
        low[j] = _ZERO if low[j] > _ZERO else low[j]


@phase
def _weigh(tile: _Tile) -> None:
    """Compute the numbers' weights: errors of larger numbers count more."""
    x, weight, mean = tile.x, tile.weight, tile.error
    for j in range(LANES):
        mean[j] = _ZERO
    for i in range(x.shape[0]):
        for j in range(LANES):
            mean[j] += x[i, j] * x[i, j]
    for j in range(LANES):
        mean[j] = np.sqrt(mean[j] / np.float32(x.shape[0]))
    for i in range(x.shape[0]):
        for j in range(LANES):
            weight[i, j] = mean[j] + abs(x[i, j])


@phase
def _span(tile: _Tile, top: Any) -> None:
    """Compute the initial levels, which span the range, and the sums that do not depend on the levels."""
    x, weight, low, scale, used = tile.x, tile.weight, tile.low, tile.scale, tile.used
    best, sum_w, sum_x = tile.best, tile.sum_w, tile.sum_x
    for j in range(LANES):
        used[j] = top / (tile.high[j] - low[j])
        tile.offset[j] = low[j]
        scale[j] = _ONE / used[j]
        best[j] = sum_w[j] = sum_x[j] = _ZERO
    for i in range(x.shape[0]):
        for j in range(LANES):
            v, w = x[i, j], weight[i, j]
            near = (used[j] * (v - low[j]) + ROUND) - ROUND
            near = top if near > top else near
            near = near if near > _ZERO else _ZERO
            off = scale[j] * near + low[j] - v
            best[j] += w * (off * off)
            sum_w[j] += w
            sum_x[j] += w * v


@phase
def _levels(tile: _Tile, wanted: Any, top: Any) -> None:
    """Compute the levels for another factor, and their sums."""
    x, weight, level, low, factor = tile.x, tile.weight, tile.level, tile.low, tile.factor
    sum_l, sum_l2, sum_xl = tile.sum_l, tile.sum_l2, tile.sum_xl
    for j in range(LANES):
        factor[j] = wanted / (tile.high[j] - low[j])
        sum_l[j] = sum_l2[j] = sum_xl[j] = _ZERO
    for i in range(0, x.shape[0], _UNROLL):
        for j in range(LANES):
            f, b, l1, l2, xl = factor[j], low[j], sum_l[j], sum_l2[j], sum_xl[j]
            for k in range(_UNROLL):
                v = x[i + k, j]
                near = (f * (v - b) + ROUND) - ROUND
                near = top if near > top else near
                near = near if near > _ZERO else _ZERO
                level[i + k, j] = near
                wl = weight[i + k, j] * near
                l1 += wl
                l2 += wl * near
                xl += wl * v
            sum_l[j], sum_l2[j], sum_xl[j] = l1, l2, xl


@phase
def _fit_both(tile: _Tile) -> None:
    """Fit a scale, and an offset not above 0, to the levels by least squares; compute the remaining error."""
    x, weight, level, fit, base, error = tile.x, tile.weight, tile.level, tile.fit, tile.base, tile.error
    sum_w, sum_x, sum_l, sum_l2, sum_xl = tile.sum_w, tile.sum_x, tile.sum_l, tile.sum_l2, tile.sum_xl
    for j in range(LANES):
        divisor = sum_w[j] * sum_l2[j] - sum_l[j] * sum_l[j]
        a = (sum_w[j] * sum_xl[j] - sum_x[j] * sum_l[j]) / divisor
        b = (sum_l2[j] * sum_x[j] - sum_l[j] * sum_xl[j]) / divisor
        fit[j] = sum_xl[j] / sum_l2[j] if b > _ZERO else a
        base[j] = _ZERO if b > _ZERO else b
        error[j] = _ZERO if divisor > _ZERO else _INFINITY
    for i in range(0, x.shape[0], _UNROLL):
        for j in range(LANES):
            a, b, e = fit[j], base[j], error[j]
            for k in range(_UNROLL):
                off = a * level[i + k, j] + b - x[i + k, j]
                e += weight[i + k, j] * (off * off)
            error[j] = e


@phase
def _keep_if_better(tile: _Tile) -> None:
    best, scale, low, used, offset = tile.best, tile.scale, tile.low, tile.used, tile.offset
    factor, fit, base, error = tile.factor, tile.fit, tile.base, tile.error
    for j in range(LANES):
        better = error[j] < best[j]
        used[j] = factor[j] if better else used[j]
        offset[j] = low[j] if better else offset[j]
        best[j] = error[j] if better else best[j]
        scale[j] = fit[j] if better else scale[j]
        low[j] = base[j] if better else low[j]


@kernel
def search_symmetric(x: Floats, weights: Floats, top: Any, out: Floats) -> None:
    """Find x = scale * level with the least weighted error in each block, levels -`top` to `top` - 1.

    x, weights: [blocks, numbers]; with no weights, errors are weighted by x squared. out: [2, blocks] gets
    the scales, and the factors that gave levels: round(factor * x).
    """
    tile = _tile(x.shape[1])
    for first in range(0, x.shape[0], LANES):
        count = _fill(tile, x, first)
        find_peaks(tile.x, tile.high, tile.error)
        weighted = weights.shape[0] > 0
        if weighted:
            _fill_weights(tile, weights, first)
        _fit_scale(tile, top, top, True, weighted)
        for step in range(-9, 10):
            if step != 0:
                _fit_scale(tile, top + _STEP * np.float32(step), top, False, weighted)
        for lane in range(count):
            empty = abs(tile.high[lane]) < TINY
            out[0, first + lane] = _ZERO if empty else tile.scale[lane]
            out[1, first + lane] = _ZERO if empty else tile.used[lane]


@phase
def find_peaks(x: Floats, peak: Floats, largest: Floats) -> None:
    """Find each lane's number with the largest magnitude in x [n, lanes]: with its sign, and without."""
    for j in range(LANES):
        largest[j] = peak[j] = _ZERO
    for i in range(x.shape[0]):
        for j in range(LANES):
            v = x[i, j]
            larger = abs(v) > largest[j]
            peak[j] = v if larger else peak[j]
            largest[j] = abs(v) if larger else largest[j]


@phase
def _fit_scale(tile: _Tile, wanted: Any, top: Any, first: bool, weighted: bool) -> None:
    """Compute the levels for a factor and the scale that fits them; keep it when it is the best so far."""
    x, weight, factor, sum_l2, sum_xl = tile.x, tile.weight, tile.factor, tile.sum_l2, tile.sum_xl
    best, scale, used = tile.best, tile.scale, tile.used
    for j in range(LANES):
        factor[j] = -wanted / tile.high[j]
        sum_xl[j] = sum_l2[j] = _ZERO
    for i in range(0, x.shape[0], _UNROLL):
        for j in range(LANES):
            f, xl, l2 = factor[j], sum_xl[j], sum_l2[j]
            for k in range(_UNROLL):
                v = x[i + k, j]
                near = (f * v + ROUND) - ROUND
                near = top - _ONE if near > top - _ONE else near
                near = -top if near < -top else near
                w = weight[i + k, j] if weighted else v * v
                xl += w * v * near
                l2 += w * near * near
            sum_xl[j], sum_l2[j] = xl, l2
    for j in range(LANES):
        better = first | ((sum_l2[j] > _ZERO) & (sum_xl[j] * sum_xl[j] > best[j] * sum_l2[j]))
        fit = sum_xl[j] / sum_l2[j] if sum_l2[j] != _ZERO else _ZERO
        used[j] = factor[j] if better else used[j]
        scale[j] = fit if better else scale[j]
        best[j] = fit * sum_xl[j] if better else best[j]


@kernel
def sums_of_squares(x: Floats) -> Floats:
    """Return the sum of squares of each row, added one after another."""
    sums = np.zeros(x.shape[0], np.float32)
    for row in range(x.shape[0]):
        total = _ZERO
        for i in range(x.shape[1]):
            total += x[row, i] * x[row, i]
        sums[row] = total
    return sums


@kernel
def fit_multiples(x: Floats, weights: Floats, most: int, multiples: Any, scale: Floats) -> None:
    """Find x = scale * multiple with a small weighted error in each row, multiples 0 to `most`.

    x, weights: [rows, numbers], x not below 0. It is make_qp_quants of ggml-quants.c.
    """
    bits = np.empty(1, np.float32)
    for row in range(x.shape[0]):
        values, weight, found = x[row], weights[row], multiples[row]
        largest = _ZERO
        for value in values:
            largest = max(largest, value)
        if largest < TINY:
            found[:] = 0
            scale[row] = _ZERO
            continue
        factor = np.float32(most) / largest
        least = _error_at(bits, values, weight, factor, most)
        for step in range(-4, 5):
            if step != 0:
                wanted = (_STEP * np.float32(step) + np.float32(most)) / largest
                error = _error_at(bits, values, weight, wanted, most)
                if error < least:
                    least, factor = error, wanted
        sum_xl = sum_l2 = _ZERO
        for i in range(len(values)):
            found[i] = min(most, _whole(bits, factor * values[i]))
            level = np.float32(found[i])
            sum_xl += weight[i] * values[i] * level
            sum_l2 += weight[i] * level * level
        scale[row] = _improve(bits, (values, weight, found), most, sum_xl, sum_l2)


@phase
def _whole(bits: Floats, value: Any) -> int:
    """Return the nearest whole number as ggml's nearest_int does, also of a number too large for it."""
    bits[0] = value + ROUND
    number: int = (bits.view(np.int32)[0] & 0x7FFFFF) - 0x400000
    return number


@phase
def _error_at(bits: Floats, values: Floats, weight: Floats, factor: Any, most: int) -> Any:
    """Return the weighted error of the multiples that a factor gives."""
    size, error = _ONE / factor, _ZERO
    for i in range(len(values)):
        off = values[i] - size * np.float32(min(most, _whole(bits, factor * values[i])))
        error += weight[i] * off * off
    return error


@phase
def _improve(bits: Floats, row: Any, most: int, sum_xl: Any, sum_l2: Any) -> Any:
    """Change single multiples while that lowers the error; return the scale that fits them.

    row: the values, their weights and their multiples; the sums are those of the fit before.
    """
    values, weight, found = row
    for _ in range(5):
        changed = 0
        for i in range(len(values)):
            w, x, level = weight[i], values[i], np.float32(found[i])
            rest_xl, rest_l2 = sum_xl - w * x * level, sum_l2 - w * level * level
            if rest_xl > _ZERO and rest_l2 > _ZERO:
                new = min(most, _whole(bits, x * rest_l2 / rest_xl))
                if new != found[i]:
                    rest_xl += w * x * np.float32(new)
                    rest_l2 += w * np.float32(new) * np.float32(new)
                    if rest_xl * rest_xl * sum_l2 > sum_xl * sum_xl * rest_l2:
                        found[i], sum_xl, sum_l2 = new, rest_xl, rest_l2
                        changed += 1
        if changed == 0:
            break
    return sum_xl / sum_l2 if sum_l2 > _ZERO else _ZERO
