"""The search for a block's scale on whose multiples all its numbers lie, compiled by numba.

Numbers that were dequantized and stored in float16 or bfloat16 are multiples of the scale up to that type's
rounding: half a step, which `_half_step` returns. A scale is a float16, so the few that the block's largest
number allows can all be tried, and nearly all are refuted by the first numbers. Of several that fit, the one
with the least squared error is taken.

Only some blocks of a row are tried first. Where none of them fits, as in any ordinary row, the others are
left out: a row is decided upon by itself, so that the result does not depend on how rows are grouped.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.quantize.k_quant_search import Floats, kernel

Codes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
_BLOCK = 32
_PROBES = 4  # blocks of a row that are tried first
SMALLEST = 2.0**-12  # below, a float16's steps are no longer small beside the numbers
_F16_MAX = 65504.0
_F16_EXPONENT = 127 - 14  # of the smallest normal number, in float32's bits
MARGIN = 1.001  # the sum of scale and minimum was rounded to float32 first
_WHOLE = 1.5 * 2.0**52  # adding and subtracting it rounds a float64 to the nearest whole number
_TRIED_MINIMUMS = 32  # of those that each number allows


class Block(NamedTuple):
    """The numbers of a block, and the bits of precision with which they were stored."""

    x: Floats
    bits: int


class Levels(NamedTuple):
    """A type's `levels` by code, and the code by the multiple of the scale, from -128 to 128, in `nearest`.

    `tried` are the levels that a block's largest number may have, in the order of the search. With
    `mirrored`, a positive one stands for the negative one too.
    """

    levels: Floats
    nearest: NDArray[np.uint8]
    tried: Floats
    mirrored: bool


class Found(NamedTuple):
    """For blocks [blocks]: whether a scale was found, the scales, the minimums, and the codes [blocks, 32].

    A value is `scale * level + minimum`; the level of a code is the code itself where there are minimums.
    """

    found: NDArray[np.bool_]
    scale: Floats
    minimum: Floats
    codes: Codes


def new_found(blocks: int) -> Found:
    """Return the arrays for a search over that many blocks, in which nothing is found yet."""
    scale, minimum = np.zeros((2, blocks), np.float32)
    return Found(np.zeros(blocks, np.bool_), scale, minimum, np.zeros((blocks, _BLOCK), np.uint8))


@kernel
def _precision_of_small(x: Floats) -> int:
    """Return the bits of a block with numbers so small that float16 stores them with fewer."""
    for value in x:
        mantissa, exponent = math.frexp(float(value))
        scaled = math.ldexp(mantissa, min(11, exponent + 24))
        if scaled != math.floor(scaled):
            return 24
    return 11


@kernel
def precision(x: Floats) -> int:
    """Return the bits of the type in which a block was stored: bfloat16's 8, float16's 11 or float32's 24."""
    bits = 8
    for pattern in x.view(np.uint32):
        if pattern & 0xFFFF:
            bits = 11
        if pattern & 0x1FFF:
            return 24 if pattern >> 23 & 255 >= _F16_EXPONENT else _precision_of_small(x)
    return bits


@kernel
def half_step(value: float, bits: int) -> float:
    """Return how far rounding to `bits` bits of precision, at most float16's, may have moved a number."""
    exponent = math.frexp(value)[1] if value != 0 else -24
    step: float = math.ldexp(1.0, max(exponent - min(bits, 11), -24) - 1)
    return step


@kernel
def rounds_to(exact: float, value: float, bits: int) -> bool:
    """Return whether storing `exact` gives `value`: to nearest, ties to even.

    With 24 bits `exact` is only near: a scale that was no float16 before is rounded to one.
    """
    off, half = abs(exact - value), half_step(value, bits)
    if bits == 24 or off < half / 2:
        return off <= half
    if abs(exact) < abs(value) and half > 2.0**-25 and abs(math.frexp(value)[0]) == 0.5:
        half /= 2  # the numbers below a power of two are nearer
    even = np.floor(abs(value) / (4 * half)) * 4 * half == abs(value)
    return off < half or (off == half and even)


@kernel
def f16_step(value: float) -> float:
    """Return the distance of the float16 numbers at a positive value."""
    step: float = math.ldexp(1.0, max(math.frexp(float(value))[1] - 11, -24))
    return step


@kernel
def nearest_f16(value: float) -> float:
    """Return the nearest float16, as a float64."""
    if value == 0:
        return 0.0
    step = f16_step(abs(value))
    return float(np.round(value / step)) * step


@kernel
def _largest(x: Floats) -> int:
    best = 0
    for i in range(1, x.shape[0]):
        if abs(x[i]) > abs(x[best]):
            best = i
    return best


@kernel
def _error(block: Block, d: float, kind: Levels) -> float:
    """Return the squared error of a scale, -1 where a number is not a multiple of it."""
    total = 0.0
    for value in block.x:
        multiple = np.round(value / d)
        if abs(multiple) > 128:
            return -1.0
        exact = d * kind.levels[kind.nearest[int(multiple) + 128]]
        if not rounds_to(exact, float(value), block.bits):
            return -1.0
        off = exact - value
        total += off * off
    return total


@kernel
def _near_whole(x: Floats, low: float, span: float, steps: float, margin: float) -> bool:
    """Return whether all numbers are nearly whole steps above `low`, of which the `span` has `steps`.

    This quick test errs on yes. `margin` is what rounding may have moved a number or the span; the length of
    a step is a float16.
    """
    factor, relative = steps / span, margin / abs(span) + 2.0**-10
    for value in x:
        found = (float(value) - low) * factor
        whole = (found + _WHOLE) - _WHOLE
        if abs(found - whole) > abs(found) * relative + margin * abs(factor):
            return False
    return True


@kernel
def _scale(x: Floats, kind: Levels) -> float:
    """Return the scale of a block, 0 where there is none."""
    block, peak = Block(x, precision(x)), float(x[_largest(x)])
    margin = half_step(peak, block.bits)
    best, least = 0.0, np.inf
    for one in kind.tried:
        level = -one if kind.mirrored and one > 0 and peak < 0 else one
        if not _near_whole(x, 0.0, peak, level, margin):
            continue
        low, high = (peak - margin) / level, (peak + margin) / level
        sign = 1.0 if low + high > 0 else -1.0
        low, high = min(abs(low), abs(high)), max(abs(low), abs(high))
        d = math.ceil(low / f16_step(low)) * f16_step(low)
        while d <= high and d <= _F16_MAX:
            error = _error(block, sign * d, kind)
            if 0 <= error < least:
                best, least = sign * d, error
            d += f16_step(d)
        if best != 0:
            return best
    return best


@kernel
def _probe(per_row: int, number: int) -> int:
    """Return the place in a row of a block that is tried first."""
    return number * per_row // min(_PROBES, per_row)


@kernel
def probe_scaled(x: Floats, per_row: int, kind: Levels, out: Flags) -> None:
    """Find the rows of `per_row` blocks x [blocks, 32] of which a probed block has a scale."""
    for row in range(out.shape[0]):
        out[row] = False
        for number in range(min(_PROBES, per_row)):
            block = x[row * per_row + _probe(per_row, number)]
            if abs(block[_largest(block)]) >= SMALLEST and _scale(block, kind) != 0:
                out[row] = True
                break


@kernel
def search_scaled(x: Floats, kind: Levels, out: Found) -> None:
    """Search scales for the blocks x [blocks, 32], whose values are d * level."""
    for place in range(x.shape[0]):
        block = x[place]
        d = _scale(block, kind) if abs(block[_largest(block)]) >= SMALLEST else 0.0
        out.found[place], out.scale[place] = d != 0, d
        for i in range(_BLOCK if d != 0 else 0):
            out.codes[place, i] = kind.nearest[int(np.round(block[i] / d)) + 128]


@kernel
def _on_steps(block: Block, low: float, d: float) -> bool:
    """Return whether all numbers are whole steps d above `low`."""
    margin = half_step(low, block.bits)
    for value in block.x:
        above = float(value) - low
        if abs(np.round(above / d) * d - above) > half_step(float(value), block.bits) + margin:
            return False
    return True


@kernel
def _error_above(block: Block, low: float, d: float, minimum: float, first: int) -> float:
    """Return the squared error of d * code + minimum, -1 where a number is not that."""
    total = 0.0
    for value in block.x:
        code = np.round((float(value) - low) / d) + first
        exact = float(np.float32(d * code + minimum))
        if not rounds_to(exact, float(value), block.bits):
            return -1.0
        total += (exact - value) ** 2
    return total


@kernel
def _minimum(block: Block, low: float, d: float, first: int) -> tuple[float, float]:
    """Return the best minimum where `low` has the code `first`, and its squared error, -1 without one."""
    least, most, total = -np.inf, np.inf, 0.0
    for value in block.x:
        rest = float(value) - d * (np.round((float(value) - low) / d) + first)
        margin = half_step(float(value), block.bits) * MARGIN
        least, most = max(least, rest - margin), min(most, rest + margin)
        total += rest
    if least > most:
        return 0.0, -1.0
    middle = nearest_f16(min(max(total / block.x.shape[0], least), most))
    step = max(f16_step(abs(middle) * 0.999), (most - least) / _TRIED_MINIMUMS)
    for away in range(2 * _TRIED_MINIMUMS):
        minimum = nearest_f16(middle + (away + 1) // 2 * (step if away % 2 else -step))
        if least <= minimum <= most:
            error = _error_above(block, low, d, minimum, first)
            if error >= 0:
                return minimum, error
    return 0.0, -1.0


@kernel
def _affine(x: Floats, top: int) -> tuple[float, float, int]:
    """Return the scale, the minimum and the code of the lowest number of a block; a scale of 0 without."""
    block, low, high = Block(x, precision(x)), float(x.min()), float(x.max())
    margin = half_step(low, block.bits) + half_step(high, block.bits)
    best, minimum, code, least = 0.0, 0.0, 0, np.inf
    for steps in range(top, 0, -1):
        if not _near_whole(x, low, high - low, steps, 2 * margin):
            continue
        start, end = max((high - low - margin) / steps, 2.0**-24), (high - low + margin) / steps
        d = math.ceil(start / f16_step(start)) * f16_step(start)
        while d <= end and d <= _F16_MAX:
            if _on_steps(block, low, d):
                for first in range(top - steps + 1):
                    found, error = _minimum(block, low, d, first)
                    if 0 <= error < least:
                        best, minimum, code, least = d, found, first, error
            d += f16_step(d)
        if best != 0:
            return best, minimum, code
    return best, minimum, code


@kernel
def probe_affine(x: Floats, per_row: int, top: int, out: Flags) -> None:
    """Find the rows of `per_row` blocks x [blocks, 32] of which a probed block has a scale and a minimum."""
    for row in range(out.shape[0]):
        out[row] = False
        for number in range(min(_PROBES, per_row)):
            block = x[row * per_row + _probe(per_row, number)]
            if block.max() - block.min() >= SMALLEST and _affine(block, top)[0] != 0:
                out[row] = True
                break


@kernel
def search_affine(x: Floats, top: int, out: Found) -> None:
    """Search scales and minimums for blocks x [blocks, 32]: values are d * code + m, codes up to `top`."""
    for place in range(x.shape[0]):
        block, low = x[place], x[place].min()
        if block.max() - low < SMALLEST:
            continue
        d, minimum, first = _affine(block, top)
        out.found[place], out.scale[place], out.minimum[place] = d != 0, d, minimum
        for i in range(_BLOCK if d != 0 else 0):
            out.codes[place, i] = int(np.round((block[i] - low) / d)) + first


@kernel
def find_changed(values: Floats, true: Floats, out: NDArray[np.int64]) -> None:
    """Count in each block [blocks, numbers] the values that would be stored as others than the true ones."""
    for place in range(true.shape[0]):
        bits, count = precision(true[place]), 0
        for i in range(true.shape[1]):
            value, wanted = float(values[place, i]), float(true[place, i])
            same = value == wanted if bits == 24 else rounds_to(value, wanted, bits)
            count += 0 if same else 1
        out[place] = count
