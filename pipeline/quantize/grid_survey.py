"""Whether weights lie on a ggml type's grid already, and what that means for a tuning.

The one place that decides this: the export says it of a base before it is quantized, the certificate explains
losses by it. grids.py has the search.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.sequences import sample_evenly
from ggufio.ggml import Floats, ggml_type_named
from pipeline.quantize.grids import changed_numbers, may_fit
from pipeline.quantize.rounding import rounded_rows
from pipeline.sources.safetensors_reader import SafetensorsReader

BLOCK = 32
_LEVELS = {
    **{"TQ2_0": 3, "Q2_K": 8, "Q3_K": 16, "MXFP4": 16, "IQ4_NL": 16, "Q4_0": 16, "Q4_1": 16, "Q4_K": 16},
    **{"Q5_0": 32, "Q5_1": 32, "Q5_K": 32, "Q6_K": 32, "Q8_0": 32},
}
"""The types by size, and the most distinct values that 32 weights may have in them."""
_ON_GRID = 0.9  # of the blocks; imatrix-made K-quants may have scales that are not found
_NEAR = 2.0**-22  # relative squared error of float32 numbers whose scale was no float16
_MAX_TENSORS, _MAX_ROWS = 24, 8
_LAYER = re.compile(r"\.\d+\.")


def distinct_levels(rows: Floats) -> int:
    """Return the largest number of distinct values in a block of 32 weights of rows [rows, width]."""
    ordered = np.sort(rows.reshape(-1, BLOCK), axis=1)
    return 1 + int((np.diff(ordered, axis=1) != 0).sum(axis=1).max(initial=0))


def is_on_grid(rows: Floats, name: str) -> bool:
    """Return whether rows [rows, width] lie on the ggml type's grid, so that it stores them without error.

    A few blocks may have one. Rows that fill no blocks of the type, or are all zeros, do not lie on it.
    """
    kind = ggml_type_named(name)
    if rows.shape[1] % kind.block:
        return False
    rows = np.ascontiguousarray(rows, np.float32)
    if not may_fit(rows, name):
        return False
    blocks = rows.reshape(-1, kind.block)
    values = rounded_rows(rows, kind.number).reshape(blocks.shape)
    error, energy = (np.square(one.astype(np.float64)).sum(axis=1) for one in (values - blocks, blocks))
    counted = energy > 0
    fits = (changed_numbers(values, blocks) == 0) | (error <= _NEAR * energy)
    return bool(counted.any()) and float(fits[counted].mean()) >= _ON_GRID


def grid_of(rows: Floats) -> str:
    """Return the smallest ggml type on whose grid rows [rows, width] lie, "" where there is none."""
    if rows.shape[1] % BLOCK or not np.isfinite(rows).all():
        return ""
    levels = distinct_levels(rows)
    return next((name for name, most in _LEVELS.items() if levels <= most and is_on_grid(rows, name)), "")


@dataclass(frozen=True)
class GridSurvey:
    """How many of the `sampled` matrices of a checkpoint lie on which ggml type's grid."""

    types: dict[str, int]
    sampled: int

    @property
    def type(self) -> str:
        """The type whose grid more than half of the matrices lie on, "" without one."""
        name, count = max(self.types.items(), key=lambda item: item[1], default=("", 0))
        return name if 2 * count > self.sampled else ""

    def notes(self, tuned: bool) -> Sequence[str]:
        """Return what it means for the files, as a line for the user; `tuned` where adapters are merged."""
        if not self.type:
            return ()
        on_grid = (
            f"the base's weights lie on {self.type}'s grid ({self.types[self.type]} of {self.sampled} "
            "matrices looked at), as those of a dequantized file do"
        )
        if not tuned:
            return (f"{on_grid}: {self.type} keeps them exactly, and most other types round them once more",)
        return (
            f"{on_grid}: {self.type} keeps the tensors that no adapter touches exactly, but takes most small "
            "changes of the others back: train the adapter for the file (--recover), use Q8_0, or serve the "
            "base's own file with the adapter beside it (BASE.gguf::ADAPTER.gguf)",
        )


def survey_checkpoint(files: Iterable[Path]) -> GridSurvey:
    """Look at some rows of some of the layers' matrices in a checkpoint's safetensors files."""
    stored = SafetensorsReader(files)
    names = sample_evenly(layer_matrices(stored), _MAX_TENSORS)
    found = Counter(grid_of(stored.sample_rows(name, _MAX_ROWS)) for name in names)
    return GridSurvey({name: count for name, count in found.items() if name}, len(names))


def layer_matrices(stored: SafetensorsReader) -> list[str]:
    """Return the names of the layers' matrices that have whole blocks."""
    shapes = {name: tensor.shape for name, tensor in stored.tensors.items() if _LAYER.search(name)}
    return [n for n, s in shapes.items() if len(s) > 1 and s[-1] % BLOCK == 0 and s[-2] >= BLOCK]
