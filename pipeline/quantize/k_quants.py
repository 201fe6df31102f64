"""Quantize rows several times faster than llama.cpp and to the same bytes, also with an importance matrix.

The arithmetic is that of ggml-quants.c (quantize_row_q4_K_ref, quantize_row_q4_K_impl etc.). Compilers
differ, so each type is compared with llama.cpp's result on this CPU before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import library, type_name, type_number
from pipeline.quantize.grid_search import Found, new_found
from pipeline.quantize.grid_search_k import SuperFound, new_super_found
from pipeline.quantize.iq4_quants import iq4_nl, iq4_xs
from pipeline.quantize.k_quant_search import (
    ROUND,
    TINY,
    Floats,
    fit_multiples,
    kernel,
    search_symmetric,
    search_with_minimum,
    sums_of_squares,
)
from pipeline.quantize.packing import (
    Bytes,
    pack_2_k,
    pack_3_k,
    pack_4_0,
    pack_4_1,
    pack_4_k,
    pack_5_0,
    pack_5_1,
    pack_5_k,
    pack_6_k,
)

Quantize = Callable[[Floats], Bytes]
"""Quantizes rows [rows, width] to bytes."""

QuantizeWeighted = Callable[[Floats, Floats], Bytes]
"""The same, given the importance of the columns [width]."""

_SUPER = 256  # numbers in a super-block, which has 8 or 16 blocks with a scale each
_BLOCK = 32  # numbers in a block of the types without super-blocks
_RECIPROCAL = np.float32(1e-30)  # the reciprocals of smaller scales may overflow
_NO_WEIGHTS = np.empty((0, 0), np.float32)
_WEIGHTED_TRIALS = np.float32(-0.9) + np.float32(0.05) * np.arange(37, dtype=np.float32)
"""What is added to the levels that a block's range is divided into, where errors have weights."""


class TooSmall(ArithmeticError):
    """The numbers are so small that reciprocals overflow, where the result of C's casts is undefined."""


def q4_k(x: Floats) -> Bytes:
    """Quantize x [rows, width], width a multiple of 256, to [rows * width / 256, 144]. Raises TooSmall."""
    return pack_4_k(_with_minimum(x, 15, -1.0, 20))


def q5_k(x: Floats) -> Bytes:
    """Quantize x [rows, width], width a multiple of 256, to [rows * width / 256, 176]. Raises TooSmall."""
    return pack_5_k(_with_minimum(x, 31, -0.5, 15))


def q6_k(x: Floats, importance: Floats | None = None) -> Bytes:
    """Quantize x [rows, width], width a multiple of 256, to [rows * width / 256, 210]. Raises TooSmall."""
    blocks = x.reshape(-1, 16)
    weights = _NO_WEIGHTS if importance is None else _spread(importance, len(x), 16)
    found = np.empty((2, len(blocks)), np.float32)
    search_symmetric(blocks, weights, np.float32(32), found)
    _check(found)
    scale = found[0].reshape(-1, 16)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)
    empty = np.abs(largest) < TINY
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(empty, np.float32(0), np.float32(-128) / largest)
        d = np.where(empty, np.float32(0), np.float32(1) / inverse).astype(np.float16).astype(np.float32)
    result = new_super_found(len(scale), 16)
    result.d[:] = d.ravel()
    result.scales[:] = np.minimum(_nearest(inverse * scale), 127).astype(np.int8)
    codes = _symmetric_codes(blocks, (d * result.scales.astype(np.float32)).ravel(), found[1], 32)
    result.codes[:] = np.where(empty[:, :, None], np.uint8(0), codes.reshape(result.codes.shape))
    return pack_6_k(result)


def _with_minimum(x: Floats, top: int, start: float, steps: int) -> SuperFound:
    """Return the scales and the levels, 0 to `top`, of each super-block."""
    blocks = x.reshape(-1, 32)
    found = np.empty((5, len(blocks)), np.float32)
    tried = np.float32(start) + np.float32(0.1) * np.arange(steps + 1, dtype=np.float32)
    search_with_minimum(blocks, _NO_WEIGHTS, np.float32(top), tried, found)
    _check(found)
    result = new_super_found(len(blocks) // 8, 8)
    result.d[:], result.scales[:] = _in_64_steps(found[0].reshape(-1, 8))
    result.d_min[:], result.minimums[:] = _in_64_steps(found[1].reshape(-1, 8))
    _set_codes(result, blocks, top, found)
    return result


def _set_codes(result: SuperFound, blocks: Floats, top: int, found: Floats) -> None:
    """Compute the levels anew from the rounded scales."""
    d, d_min = (one.astype(np.float16).astype(np.float32)[:, None] for one in (result.d, result.d_min))
    rounded = found.copy()
    rounded[0] = (d * result.scales.astype(np.float32)).ravel()
    rounded[1] = (d_min * result.minimums.astype(np.float32)).ravel()
    levels = np.empty(blocks.shape, np.uint8)
    _levels_with_minimum(blocks, np.float32(top), rounded, levels)
    result.codes[:] = levels.reshape(result.codes.shape)


def _k_weighted(
    x: Floats,
    importance: Floats,
    *,
    block: int,
    top: int,
    most: int,
    doubled: bool,
    pack: Callable[[SuperFound], Bytes],
) -> Bytes:
    """Quantize to a K type with minimums: levels 0 to `top`, scales 0 to `most` times the super-block's."""
    blocks, weights = x.reshape(-1, block), _weights(x, importance, block, _SUPER, doubled=doubled)
    found = _search_weighted(blocks, weights, top)
    if (found[0] < 0).any():  # C's cast of a negative number is undefined
        raise TooSmall
    result = new_super_found(len(x) * x.shape[1] // _SUPER, _SUPER // block)
    scale, minimum, sums = (found[row].reshape(result.scales.shape) for row in (0, 1, 4))
    fit_multiples(scale, sums, most, result.scales, result.d)
    fit_multiples(minimum, sums, most, result.minimums, result.d_min)
    _set_codes(result, blocks, top, found)
    return pack(result)


def _q3_k_weighted(x: Floats, importance: Floats) -> Bytes:
    blocks, weights = x.reshape(-1, 16), _weights(x, importance, 16, _SUPER, doubled=True)
    found = np.empty((2, len(blocks)), np.float32)
    search_symmetric(blocks, weights, np.float32(4), found)
    _check(found)
    result = new_super_found(len(blocks) // 16, 16)
    scale = found[0].reshape(-1, 16)
    sums = np.zeros(len(blocks), np.float32)
    for column in range(16):  # in llama.cpp's order
        sums += weights[:, column]
    outer = np.empty((2, len(scale)), np.float32)
    search_symmetric(scale, sums.reshape(-1, 16), np.float32(32), outer)
    _check(outer)
    multiples = _symmetric_codes(scale, np.zeros(len(scale), np.float32), outer[1], 32)
    result.d[:], result.scales[:] = outer[0], multiples.astype(np.int64) - 32
    d = outer[0].astype(np.float16).astype(np.float32)[:, None] * result.scales.astype(np.float32)
    result.codes[:] = _symmetric_codes(blocks, d.ravel(), found[1], 4).reshape(result.codes.shape)
    return pack_3_k(result)


def _symmetric_weighted(x: Floats, importance: Floats, *, top: int, pack: Callable[[Found], Bytes]) -> Bytes:
    """Quantize to blocks of 32 with a scale, levels -`top` to `top` - 1."""
    blocks, weights = x.reshape(-1, _BLOCK), _weights(x, importance, _BLOCK, x.shape[1])
    scales = np.empty((2, len(blocks)), np.float32)
    search_symmetric(blocks, weights, np.float32(top), scales)
    _check(scales)
    result = new_found(len(blocks))
    result.scale[:] = scales[0]
    result.codes[:] = _symmetric_codes(blocks, np.zeros(len(blocks), np.float32), scales[1], top)
    return pack(result)


def _affine_weighted(x: Floats, importance: Floats, *, top: int, pack: Callable[[Found], Bytes]) -> Bytes:
    """Quantize to blocks of 32 with a scale and a minimum, levels 0 to `top`."""
    blocks, weights = x.reshape(-1, _BLOCK), _weights(x, importance, _BLOCK, x.shape[1])
    found = _search_weighted(blocks, weights, top)
    result = new_found(len(blocks))
    result.scale[:], result.minimum[:] = found[0], -found[1]
    found[0] = 0  # the search's own levels count
    _levels_with_minimum(blocks, np.float32(top), found, result.codes)
    return pack(result)


def _search_weighted(blocks: Floats, weights: Floats, top: int) -> Floats:
    found = np.empty((5, len(blocks)), np.float32)
    search_with_minimum(blocks, weights, np.float32(top), _WEIGHTED_TRIALS, found)
    _check(found)
    return found


def _spread(importance: Floats, rows: int, block: int) -> Floats:
    """Return the importance for each number of rows, in blocks [blocks, block]."""
    return np.tile(importance.astype(np.float32, copy=False), rows).reshape(-1, block)


def _weights(x: Floats, importance: Floats, block: int, span: int, *, doubled: bool = False) -> Floats:
    """Return the weights of the numbers' errors, in blocks [blocks, block].

    They are the columns' importance times a mean of the number and those of its `span`, squared.
    """
    squares = sums_of_squares(x.reshape(-1, span))
    mean = (squares * np.float32(2 if doubled else 1)) / np.float32(span)
    spans = x.reshape(-1, span)
    weights = np.sqrt(mean[:, None] + spans * spans).reshape(x.shape)
    weights = importance * weights
    return np.ascontiguousarray(weights.reshape(-1, block))


def _check(found: Floats) -> None:
    scale = np.abs(found[0])
    if not np.isfinite(found).all() or ((scale > 0) & (scale < _RECIPROCAL)).any():
        raise TooSmall


def _in_64_steps(values: Floats) -> tuple[Floats, Bytes]:
    """Return the step [n] and the multiples of it [n, 8], 0 to 63, for each super-block's scales."""
    largest = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(63) / largest, np.float32(0))
    steps = np.minimum(_nearest(inverse * values).astype(np.uint8), np.uint8(63))
    return (largest / np.float32(63)).ravel(), steps


def _nearest(values: Floats) -> NDArray[np.int32]:
    return np.rint(values).astype(np.int32)


def _symmetric_codes(x: Floats, scale: Floats, factor: Floats, top: int) -> Bytes:
    """Return the codes of [blocks, numbers] by the rounded scales, or the search's factors where one is 0."""
    codes = np.empty(x.shape, np.uint8)
    _symmetric_levels(x, scale, factor, np.float32(top), codes)
    return codes


@kernel
def _levels_with_minimum(x: Floats, top: Floats, found: Floats, out: Bytes) -> None:
    """Compute the levels of [blocks, numbers] from the rounded scales, or the search's where one became 0.

    found: [5, blocks], the rounded scales and minimums, and the search's factors and offsets.
    """
    for block in range(x.shape[0]):
        d, low, factor, offset = found[0, block], found[1, block], found[2, block], found[3, block]
        for i in range(x.shape[1]):
            exact = (x[block, i] + low) / d if d != 0 else factor * (x[block, i] - offset)
            near = (exact + ROUND) - ROUND
            near = top if near > top else near
            out[block, i] = np.uint8(near) if near > 0 else np.uint8(0)


@kernel
def _symmetric_levels(x: Floats, scale: Floats, factor: Floats, top: Floats, out: Bytes) -> None:
    """Compute the levels of [blocks, numbers], from -`top` to `top` - 1, plus `top`."""
    for block in range(x.shape[0]):
        d = scale[block]
        for i in range(x.shape[1]):
            exact = x[block, i] / d if d != 0 else factor[block] * x[block, i]
            near = (exact + ROUND) - ROUND
            near = top - 1 if near > top - 1 else near
            near = -top if near < -top else near
            out[block, i] = np.uint8(near + top) if d != 0 or factor[block] != 0 else np.uint8(0)


def _iq4_nl(x: Floats, importance: Floats | None = None) -> Bytes:
    return iq4_nl(x.reshape(-1, _BLOCK), _iq4_weights(x, importance, _BLOCK))


def _iq4_xs(x: Floats, importance: Floats | None = None) -> Bytes:
    return iq4_xs(x.reshape(-1, _BLOCK), _iq4_weights(x, importance, _SUPER))


def _iq4_weights(x: Floats, importance: Floats | None, span: int) -> Floats:
    return _NO_WEIGHTS if importance is None else _weights(x, importance, _BLOCK, span, doubled=True)


_QUANTIZERS: dict[str, Quantize] = {
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
_WEIGHTED: dict[str, QuantizeWeighted] = {
    "Q4_0": partial(_symmetric_weighted, top=8, pack=pack_4_0),
    "Q5_0": partial(_symmetric_weighted, top=16, pack=pack_5_0),
    "Q4_1": partial(_affine_weighted, top=15, pack=pack_4_1),
    "Q5_1": partial(_affine_weighted, top=31, pack=pack_5_1),
    "Q2_K": partial(_k_weighted, block=16, top=3, most=15, doubled=False, pack=pack_2_k),
    "Q3_K": _q3_k_weighted,
    "Q4_K": partial(_k_weighted, block=32, top=15, most=63, doubled=True, pack=pack_4_k),
    "Q5_K": partial(_k_weighted, block=32, top=31, most=63, doubled=True, pack=pack_5_k),
    "Q6_K": q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}


@cache
def exact_quantizer(number: int) -> Quantize | None:
    """Return our quantizer of an `enum ggml_type`; None unless it gives llama.cpp's bytes on this CPU."""
    ours = _QUANTIZERS.get(type_name(number))
    if ours is None:
        return None
    x = _test_rows()
    return ours if np.array_equal(ours(x).ravel(), _by_llama_cpp(number, x, None)) else None


@cache
def exact_weighted_quantizer(number: int) -> QuantizeWeighted | None:
    """Return our quantizer with an importance matrix, as `exact_quantizer` does."""
    ours = _WEIGHTED.get(type_name(number))
    if ours is None:
        return None
    x, importance = _test_rows(), _test_importance()
    return ours if np.array_equal(ours(x, importance).ravel(), _by_llama_cpp(number, x, importance)) else None


def has_kernel(number: int, *, weighted: bool) -> bool:
    """Return whether rows are quantized here; compiles and tests the kernel at the first call."""
    return (exact_weighted_quantizer if weighted else exact_quantizer)(number) is not None


def kernel_types(*, weighted: bool) -> dict[str, int]:
    """Return the types that have a kernel here which agrees with llama.cpp on this CPU, and their numbers."""
    found = {name: type_number(name) for name in (_WEIGHTED if weighted else _QUANTIZERS)}
    return {name: number for name, number in found.items() if has_kernel(number, weighted=weighted)}


def _by_llama_cpp(number: int, x: Floats, importance: Floats | None) -> Bytes:
    theirs = np.empty(x.shape[0] * library().ggml_row_size(number, x.shape[1]), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    library().ggml_quantize_chunk(number, x.ctypes.data, theirs.ctypes.data, 0, *x.shape, weights)
    return theirs


def _test_rows() -> Floats:
    """Return typical rows [64, 256], and odd ones: all zeros, one sign, one number, large outliers."""
    x: Floats = np.random.default_rng(0).standard_normal((64, _SUPER)).astype(np.float32)
    x *= np.float32(0.02)
    x[0] = 0
    x[1], x[2] = np.abs(x[1]), -np.abs(x[2])
    x[3], x[4] = 1, -2
    x[5, :40] = 0
    x[6, ::50] = 30
    x[7] *= np.float32(1e-6)
    return x


def _test_importance() -> Floats:
    """Return weights of columns of several magnitudes, and some zeros."""
    weights: Floats = np.exp(np.random.default_rng(1).standard_normal(_SUPER) * 2).astype(np.float32)
    weights[40:90] = 0
    return weights
