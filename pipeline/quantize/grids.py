"""Weights that lie on a ggml type's grid already: whether they do, and writing them without any error.

A base that was dequantized from a GGUF has numbers that the GGUF's type holds exactly. ggml's quantizers do
not always return them: Q4_0 takes the block's largest number for level -8, which a block may lack, and
numbers stored in float16 or bfloat16 give another scale. Here the scale is found from the numbers
(grid_search.py) and the block is written with it, if that has a smaller error than ggml's block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import BF16, F16, Floats, dequantize, ggml_type
from ggufio.ggml_reader import rounded_to
from pipeline.quantize.grid_search import Codes, Found, Levels, new_found, search_affine, search_scaled
from pipeline.quantize.grid_search_k import (
    SUPER,
    SuperFound,
    may_lie_on_grid,
    new_super_found,
    search_super_affine,
    search_super_scaled,
)
from pipeline.quantize.k_quants import Bytes, fifth_bits, low_bits, six_bit_codes, six_bits

_BLOCK = 32
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # kvalues_iq4nl


@dataclass(frozen=True)
class _Grid:
    """A type with blocks of 32: its levels by code, or the highest code if blocks have minimums.

    `tried` are the levels that a block's largest number may have, likely ones first. With `mirrored`, a
    positive one stands for the negative one too.
    """

    pack: Callable[[Found], Bytes]
    levels: tuple[int, ...] = ()
    tried: tuple[int, ...] = ()
    mirrored: bool = True
    top: int = 0

    def search(self, blocks: Floats, per_row: int) -> Found:
        """Return what is found in the blocks [n, 32] of rows of `per_row` blocks."""
        found = new_found(len(blocks))
        if self.top:
            search_affine(blocks, per_row, self.top, found)
            return found
        levels, tried = (np.array(one, np.float32) for one in (self.levels, self.tried))
        multiples = np.arange(-128, 129, dtype=np.float32)
        nearest = np.abs(multiples[:, None] - levels).argmin(axis=1).astype(np.uint8)
        search_scaled(blocks, per_row, Levels(levels, nearest, tried, self.mirrored), found)
        return found


def _f16(values: Floats) -> Bytes:
    return values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def _nibbles(codes: Codes) -> Bytes:
    """Pack the low four bits: the first half of a block's codes beside the second."""
    packed: Bytes = (codes[:, :16] & np.uint8(15)) | codes[:, 16:] << 4
    return packed


def _fifth_bits(codes: Codes) -> Bytes:
    return np.packbits(codes >> 4, axis=1, bitorder="little")


def _pack_4_0(found: Found) -> Bytes:
    return np.concatenate((_f16(found.scale), _nibbles(found.codes)), axis=1)


def _pack_4_1(found: Found) -> Bytes:
    return np.concatenate((_f16(found.scale), _f16(found.minimum), _nibbles(found.codes)), axis=1)


def _pack_5_0(found: Found) -> Bytes:
    head = (_f16(found.scale), _fifth_bits(found.codes))
    return np.concatenate((*head, _nibbles(found.codes)), axis=1)


def _pack_5_1(found: Found) -> Bytes:
    head = (_f16(found.scale), _f16(found.minimum), _fifth_bits(found.codes))
    return np.concatenate((*head, _nibbles(found.codes)), axis=1)


def _pack_8_0(found: Found) -> Bytes:
    return np.concatenate((_f16(found.scale), found.codes - np.uint8(128)), axis=1)


_GRIDS = {
    "Q4_0": _Grid(_pack_4_0, tuple(range(-8, 8)), (-8, *range(7, 0, -1))),
    "Q4_1": _Grid(_pack_4_1, top=15),
    "Q5_0": _Grid(_pack_5_0, tuple(range(-16, 16)), (-16, *range(15, 0, -1))),
    "Q5_1": _Grid(_pack_5_1, top=31),
    "Q8_0": _Grid(_pack_8_0, tuple(range(-128, 128)), (*range(127, 0, -1), -128)),
    "IQ4_NL": _Grid(_pack_4_0, _IQ4_NL, tuple(sorted(_IQ4_NL, key=abs, reverse=True)), mirrored=False),
}


@dataclass(frozen=True)
class _SuperGrid:
    """A K type: the blocks of a super-block, the highest multiple of a scale, and the number of codes.

    A `symmetric` type has no minimums, and multiples from -most to most - 1.
    """

    pack: Callable[[SuperFound], Bytes]
    blocks: int
    most: int
    codes: int
    symmetric: bool = False

    def search(self, numbers: Floats) -> tuple[NDArray[np.int64], SuperFound]:
        """Return the places of super-blocks of rows [rows, width], and what is found in them."""
        x = numbers.reshape(-1, self.blocks, SUPER // self.blocks)
        span = self.codes // 2 if self.symmetric else self.codes - 1
        possible = np.empty(len(x), np.bool_)
        may_lie_on_grid(x, span, self.symmetric, possible)
        places = np.flatnonzero(possible)
        found = new_super_found(len(places), self.blocks)
        if len(places):  # compiling the search takes seconds
            search = search_super_scaled if self.symmetric else search_super_affine
            search(x[places], self.most, span, found)
        return places, found


def _pack_4_k(found: SuperFound) -> Bytes:
    return np.concatenate((*_head_k(found), low_bits(found.codes)), axis=1)


def _pack_5_k(found: SuperFound) -> Bytes:
    return np.concatenate((*_head_k(found), fifth_bits(found.codes), low_bits(found.codes)), axis=1)


def _head_k(found: SuperFound) -> tuple[Bytes, Bytes, Bytes]:
    scales, minimums = (one.astype(np.uint8) for one in (found.scales, found.minimums))
    return _f16(found.d), _f16(found.d_min), six_bits(scales, minimums)


def _pack_6_k(found: SuperFound) -> Bytes:
    low, high = six_bit_codes(found.codes)
    return np.concatenate((low, high, found.scales.astype(np.int8).view(np.uint8), _f16(found.d)), axis=1)


def _pack_2_k(found: SuperFound) -> Bytes:
    scales = (found.scales | found.minimums << 4).astype(np.uint8)
    return np.concatenate((scales, _two_bits(found.codes), _f16(found.d), _f16(found.d_min)), axis=1)


def _pack_3_k(found: SuperFound) -> Bytes:
    places = np.arange(8, dtype=np.uint8)[:, None]
    third = np.bitwise_or.reduce((found.codes.reshape(-1, 8, 32) >> 2) << places, axis=1)
    scales = (found.scales + 32).astype(np.uint8)
    low = scales[:, :8] & np.uint8(15) | scales[:, 8:] << 4
    quarters = (scales >> 4).reshape(-1, 4, 4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce(quarters, axis=1)
    return np.concatenate((third, _two_bits(found.codes & np.uint8(3)), low, high, _f16(found.d)), axis=1)


def _two_bits(codes: Codes) -> Bytes:
    """Pack codes of 2 bits: four quarters of each half share their bytes."""
    quarters = codes.reshape(-1, 2, 4, 32) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(quarters, axis=2)
    return packed.reshape(-1, 64)


_SUPER_GRIDS = {
    "Q2_K": _SuperGrid(_pack_2_k, 16, 15, 4),
    "Q3_K": _SuperGrid(_pack_3_k, 16, 32, 8, symmetric=True),
    "Q4_K": _SuperGrid(_pack_4_k, 8, 63, 16),
    "Q5_K": _SuperGrid(_pack_5_k, 8, 63, 32),
    "Q6_K": _SuperGrid(_pack_6_k, 16, 128, 64, symmetric=True),
}


def keep_grid(numbers: Floats, dtype: int, rows: Bytes, importance: Floats | None = None) -> None:
    """Write blocks whose numbers lie on the type's grid into the quantized `rows`, where that is nearer.

    numbers: [rows, width], float32. rows: [rows, bytes], ggml's result for the `enum ggml_type`. importance:
    [width], the weights of the columns' errors. All other blocks keep their bytes.
    """
    kind = ggml_type(dtype)
    assert kind is not None
    places, packed = _search(numbers, kind.name)
    if not len(places):
        return
    blocks, per_row = numbers.reshape(-1, kind.block), numbers.shape[1] // kind.block
    true, stored = blocks[places], rows.reshape(-1, kind.size)
    weights = None if importance is None else importance.reshape(-1, kind.block)[places % per_row]
    values = [dequantize(kind, data.tobytes()).reshape(true.shape) for data in (packed, stored[places])]
    (wrong, error), (ggml_wrong, ggml_error) = (errors(one, true, weights) for one in values)
    nearer = (wrong < ggml_wrong) | ((wrong == ggml_wrong) & (error < ggml_error))
    stored[places[nearer]] = packed[nearer]


def _search(numbers: Floats, name: str) -> tuple[NDArray[np.int64], Bytes]:
    """Return the places of the blocks of rows [rows, width] that lie on the type's grid, and their bytes."""
    if name in _GRIDS:
        found = _GRIDS[name].search(numbers.reshape(-1, _BLOCK), numbers.shape[1] // _BLOCK)
        places = np.flatnonzero(found.found)
        return places, _GRIDS[name].pack(found)[places] if len(places) else np.empty(0, np.uint8)
    if name in _SUPER_GRIDS:
        places, super_found = _SUPER_GRIDS[name].search(numbers)
        return places[super_found.found], _SUPER_GRIDS[name].pack(super_found)[super_found.found]
    return np.empty(0, np.int64), np.empty(0, np.uint8)


def errors(
    values: Floats, true: Floats, weights: Floats | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each block how many numbers would be stored as others, and the squared error.

    bfloat16 stores a whole range of numbers as one. Any of them is the same number to it, so the error within
    the range matters only between blocks that have equally many numbers outside.
    """
    half, brain = (rounded_to(values, dtype) != true for dtype in (F16, BF16))
    is_half, is_brain = (
        (rounded_to(true, dtype) == true).all(axis=1, keepdims=True) for dtype in (F16, BF16)
    )
    changed = np.where(is_brain, brain, half & is_half).sum(axis=1)
    squares = np.square(values.astype(np.float64) - true)
    return changed, (squares if weights is None else squares * weights).sum(axis=1)
