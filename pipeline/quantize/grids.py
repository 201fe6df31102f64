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

from ggufio.ggml import Floats, GGMLType, dequantize, ggml_type
from pipeline.quantize.grid_search import (
    Flags,
    Found,
    Levels,
    find_changed,
    new_found,
    probe_affine,
    probe_scaled,
    search_affine,
    search_scaled,
)
from pipeline.quantize.grid_search_k import (
    SUPER,
    SuperFound,
    may_lie_on_grid,
    new_super_found,
    search_super_affine,
    search_super_scaled,
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
    pack_8_0,
)

Places = NDArray[np.int64]
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

    def candidates(self, numbers: Floats) -> Places:
        """Return the places of the blocks that may lie on the grid, in rows [rows, width]."""
        per_row = numbers.shape[1] // _BLOCK
        blocks, rows = numbers.reshape(-1, _BLOCK), np.empty(len(numbers), np.bool_)
        if self.top:
            probe_affine(blocks, per_row, self.top, rows)
        else:
            probe_scaled(blocks, per_row, self._levels, rows)
        return np.flatnonzero(np.repeat(rows, per_row))

    def search(self, blocks: Floats) -> tuple[Flags, Bytes]:
        """Return which of the blocks [n, 32] lie on the grid, and the bytes of all."""
        found = new_found(len(blocks))
        if self.top:
            search_affine(blocks, self.top, found)
        else:
            search_scaled(blocks, self._levels, found)
        return found.found, self.pack(found)

    @property
    def _levels(self) -> Levels:
        levels, tried = (np.array(one, np.float32) for one in (self.levels, self.tried))
        multiples = np.arange(-128, 129, dtype=np.float32)
        nearest = np.abs(multiples[:, None] - levels).argmin(axis=1).astype(np.uint8)
        return Levels(levels, nearest, tried, self.mirrored)


_SMALL_GRIDS = {
    "Q4_0": _Grid(pack_4_0, tuple(range(-8, 8)), (-8, *range(7, 0, -1))),
    "Q4_1": _Grid(pack_4_1, top=15),
    "Q5_0": _Grid(pack_5_0, tuple(range(-16, 16)), (-16, *range(15, 0, -1))),
    "Q5_1": _Grid(pack_5_1, top=31),
    "Q8_0": _Grid(pack_8_0, tuple(range(-128, 128)), (*range(127, 0, -1), -128)),
    "IQ4_NL": _Grid(pack_4_0, _IQ4_NL, tuple(sorted(_IQ4_NL, key=abs, reverse=True)), mirrored=False),
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

    def candidates(self, numbers: Floats) -> Places:
        """Return the places of the super-blocks that may lie on the grid, in rows [rows, width]."""
        x = self._blocks(numbers)
        possible = np.empty(len(x), np.bool_)
        may_lie_on_grid(x, self._span, self.symmetric, possible)
        return np.flatnonzero(possible)

    def search(self, blocks: Floats) -> tuple[Flags, Bytes]:
        """Return which of the super-blocks [n, 256] lie on the grid, and the bytes of all."""
        found = new_super_found(len(blocks), self.blocks)
        search = search_super_scaled if self.symmetric else search_super_affine
        search(self._blocks(blocks), self.most, self._span, found)
        return found.found, self.pack(found)

    @property
    def _span(self) -> int:
        return self.codes // 2 if self.symmetric else self.codes - 1

    def _blocks(self, numbers: Floats) -> Floats:
        return numbers.reshape(-1, self.blocks, SUPER // self.blocks)


_GRIDS: dict[str, _Grid | _SuperGrid] = {
    **_SMALL_GRIDS,
    "Q2_K": _SuperGrid(pack_2_k, 16, 15, 4),
    "Q3_K": _SuperGrid(pack_3_k, 16, 32, 8, symmetric=True),
    "Q4_K": _SuperGrid(pack_4_k, 8, 63, 16),
    "Q5_K": _SuperGrid(pack_5_k, 8, 63, 32),
    "Q6_K": _SuperGrid(pack_6_k, 16, 128, 64, symmetric=True),
}


def keep_grid(numbers: Floats, dtype: int, rows: Bytes, importance: Floats | None = None) -> None:
    """Write blocks whose numbers lie on the type's grid into the quantized `rows`, where that is nearer.

    numbers: [rows, width], float32. rows: [rows, bytes], ggml's result for the `enum ggml_type`. importance:
    [width], the weights of the columns' errors. All other blocks keep their bytes.
    """
    kind = ggml_type(dtype)
    grid = _GRIDS.get(kind.name) if kind is not None else None
    if grid is None or kind is None or not len(places := grid.candidates(numbers)):
        return
    blocks, stored = numbers.reshape(-1, kind.block), rows.reshape(-1, kind.size)
    values = dequantize(kind, stored[places]).reshape(-1, kind.block)
    places = places[changed_numbers(values, blocks[places]) > 0]
    if not len(places):
        return
    found, packed = grid.search(blocks[places])
    places, packed, true = places[found], packed[found], blocks[places][found]
    weights = 1.0
    if importance is not None:
        weights = importance.reshape(-1, kind.block)[places % (numbers.shape[1] // kind.block)]
    ours, theirs = (_Result(kind, data, true, weights) for data in (packed, stored[places]))
    fewer, as_many = ours.changed < theirs.changed, ours.changed == theirs.changed
    nearer = fewer | (as_many & (ours.error < theirs.error))
    stored[places[nearer]] = packed[nearer]


def may_fit(numbers: Floats, name: str) -> bool:
    """Return whether some blocks of rows [rows, width] may lie on the named type's grid."""
    return name not in _GRIDS or len(_GRIDS[name].candidates(numbers)) > 0


def changed_numbers(values: Floats, true: Floats) -> NDArray[np.int64]:
    """Return for each block [blocks, numbers] how many numbers would be stored as others than the true ones.

    bfloat16 and float16 store a range of numbers as one: any of them is the same number to it. How a block
    was stored is known from its numbers.
    """
    counts = np.empty(len(true), np.int64)
    find_changed(values, true, counts)
    return counts


class _Result:
    """A block's result: how many numbers it changes, and the squared error; each is [blocks]."""

    def __init__(self, kind: GGMLType, data: Bytes, true: Floats, weights: Floats | float) -> None:
        values = dequantize(kind, data).reshape(true.shape)
        self.changed = changed_numbers(values, true)
        self.error = (np.square(values.astype(np.float64) - true) * weights).sum(axis=1)
