"""Quantize to Q4_K, Q5_K and Q6_K, several times faster than llama.cpp and to the same bytes.

The arithmetic is that of ggml-quants.c (quantize_row_q4_K_ref etc.), the block layout that of ggml-common.h.
Compilers differ, so each type is compared with llama.cpp's result on this CPU before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import library, type_name
from pipeline.quantize.k_quant_search import (
    ROUND,
    TINY,
    Floats,
    kernel,
    search_symmetric,
    search_with_minimum,
)

Bytes = NDArray[np.uint8]
_SUPER = 256  # numbers in a super-block, which has 8 or 16 blocks with a scale each
_RECIPROCAL = np.float32(1e-30)  # the reciprocals of smaller scales may overflow


class TooSmall(ArithmeticError):
    """The numbers are so small that reciprocals overflow, where the result of C's casts is undefined."""


def q4_k(x: Floats) -> Bytes:
    """Quantize x [rows, width], width a multiple of 256, to [rows * width / 256, 144]. Raises TooSmall."""
    head, levels = _with_minimum(x, 15, -1.0, 20)
    return np.concatenate((head, low_bits(levels)), axis=1)


def q5_k(x: Floats) -> Bytes:
    """Quantize x [rows, width], width a multiple of 256, to [rows * width / 256, 176]. Raises TooSmall."""
    head, levels = _with_minimum(x, 31, -0.5, 15)
    return np.concatenate((head, fifth_bits(levels), low_bits(levels)), axis=1)


def q6_k(x: Floats) -> Bytes:
    """Quantize x [rows, width], width a multiple of 256, to [rows * width / 256, 210]. Raises TooSmall."""
    blocks = x.reshape(-1, 16)
    found = np.empty((2, len(blocks)), np.float32)
    search_symmetric(blocks, np.float32(32), found)
    _check(found)
    scale = found[0].reshape(-1, 16)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)
    empty = np.abs(largest) < TINY
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(empty, np.float32(0), np.float32(-128) / largest)
        d = np.where(empty, np.float32(0), np.float32(1) / inverse).astype(np.float16)
    steps = np.minimum(_nearest(inverse * scale), 127).astype(np.int8)
    levels = np.empty(blocks.shape, np.uint8)
    _levels_6(blocks, (d.astype(np.float32) * steps).ravel(), found[1], levels)
    levels = np.where(empty[:, :, None], np.uint8(0), levels.reshape(-1, 16, 16))
    low, high = six_bit_codes(levels)
    return np.concatenate((low, high, steps.view(np.uint8), d.view(np.uint8)), axis=1)


def six_bit_codes(levels: Bytes) -> tuple[Bytes, Bytes]:
    """Pack 6-bit codes, 256 a super-block: the low 4 bits to [n, 128], the high 2 to [n, 64]."""
    # [blocks, half of 128, quarter of 32, number]: two quarters share the bytes of their low bits.
    quarter = levels.reshape(-1, 2, 4, 32)
    low = (quarter[:, :, :2] & np.uint8(15)) | (quarter[:, :, 2:] << 4)
    high = np.bitwise_or.reduce((quarter >> 4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=2)
    return low.reshape(-1, 128), high.reshape(-1, 64)


def _with_minimum(x: Floats, top: int, start: float, steps: int) -> tuple[Bytes, Bytes]:
    """Return the scales of each super-block as bytes, and the levels, [super-blocks, 8, 32]."""
    blocks = x.reshape(-1, 32)
    found = np.empty((4, len(blocks)), np.float32)
    search_with_minimum(blocks, np.float32(top), np.float32(start), steps, found)
    _check(found)
    scale, minimum = found[0].reshape(-1, 8), found[1].reshape(-1, 8)
    d, scale_steps = _in_64_steps(scale)
    d_min, minimum_steps = _in_64_steps(minimum)
    found[0] = (d.astype(np.float32) * scale_steps).ravel()
    found[1] = (d_min.astype(np.float32) * minimum_steps).ravel()
    levels = np.empty(blocks.shape, np.uint8)
    _levels_with_minimum(blocks, np.float32(top), found, levels)
    head = (d.view(np.uint8), d_min.view(np.uint8), six_bits(scale_steps, minimum_steps))
    return np.concatenate(head, axis=1), levels.reshape(-1, 8, 32)


def _check(found: Floats) -> None:
    scale = np.abs(found[0])
    if not np.isfinite(found).all() or ((scale > 0) & (scale < _RECIPROCAL)).any():
        raise TooSmall


def _in_64_steps(values: Floats) -> tuple[NDArray[np.float16], Bytes]:
    """Return the step [n, 1] and the multiples of it [n, 8], 0 to 63, for each super-block's scales."""
    largest = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(63) / largest, np.float32(0))
    steps = np.minimum(_nearest(inverse * values).astype(np.uint8), np.uint8(63))
    return (largest / np.float32(63)).astype(np.float16), steps


def six_bits(scales: Bytes, minimums: Bytes) -> Bytes:
    """Pack 8 scales and 8 minimums of 6 bits into 12 bytes, as ggml: the last four's high bits go first."""
    first = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    second = minimums[:, :4] | (minimums[:, 4:] >> 4 << 6)
    third = (scales[:, 4:] & 15) | (minimums[:, 4:] << 4)
    return np.concatenate((first, second, third), axis=1)


def low_bits(levels: Bytes) -> Bytes:
    """Pack the low 4 bits of [n, 8, 32] into [n, 128]: every two blocks of 32 share their bytes."""
    pairs = levels.reshape(-1, 4, 2, 32)
    packed: Bytes = (pairs[:, :, 0] & np.uint8(15)) | (pairs[:, :, 1] << 4)
    return packed.reshape(-1, 128)


def fifth_bits(levels: Bytes) -> Bytes:
    """Pack the fifth bits of [n, 8, 32] into [n, 32]: one byte for each place in the blocks."""
    packed: Bytes = np.bitwise_or.reduce((levels >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    return packed


def _nearest(values: Floats) -> NDArray[np.int32]:
    return np.rint(values).astype(np.int32)


@kernel
def _levels_with_minimum(x: Floats, top: Floats, found: Floats, out: Bytes) -> None:
    """Compute the levels of [blocks, 32] from the rounded scales, or from the search's where one became 0.

    found: [4, blocks], the rounded scales and minimums, and the search's factors and offsets.
    """
    for block in range(x.shape[0]):
        d, low, factor, offset = found[0, block], found[1, block], found[2, block], found[3, block]
        for i in range(x.shape[1]):
            exact = (x[block, i] + low) / d if d != 0 else factor * (x[block, i] - offset)
            near = (exact + ROUND) - ROUND
            near = top if near > top else near
            out[block, i] = np.uint8(near) if near > 0 else np.uint8(0)


@kernel
def _levels_6(x: Floats, scale: Floats, factor: Floats, out: Bytes) -> None:
    """Compute the levels of [blocks, 16], from -32 to 31, plus 32."""
    top, bottom = np.float32(31), np.float32(-32)
    for block in range(x.shape[0]):
        d = scale[block]
        for i in range(x.shape[1]):
            exact = x[block, i] / d if d != 0 else factor[block] * x[block, i]
            near = (exact + ROUND) - ROUND
            near = top if near > top else near
            near = bottom if near < bottom else near
            out[block, i] = np.uint8(near - bottom) if d != 0 or factor[block] != 0 else np.uint8(0)


_QUANTIZERS: dict[str, Callable[[Floats], Bytes]] = {"Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}


@cache
def exact_quantizer(number: int) -> Callable[[Floats], Bytes] | None:
    """Return our quantizer of an `enum ggml_type`; None unless it gives llama.cpp's bytes on this CPU."""
    ours = _QUANTIZERS.get(type_name(number))
    if ours is None:
        return None
    x = _test_rows()
    theirs = np.empty(x.shape[0] * library().ggml_row_size(number, x.shape[1]), np.uint8)
    library().ggml_quantize_chunk(number, x.ctypes.data, theirs.ctypes.data, 0, *x.shape, None)
    return ours if np.array_equal(ours(x).ravel(), theirs) else None


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
