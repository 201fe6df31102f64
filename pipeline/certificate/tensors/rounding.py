"""Differences that come from another rounding on the way: a checkpoint or a GGUF that was once in bfloat16.

Most people merge in bfloat16. That rounds the base, and then the sum with the adapter's change, so a value is
off by two half steps of the format. The difference to another adapter's file has about the same energy where
the changes are small, but it knows no steps: beside small values it is many of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ggufio.ggml import BF16, F16
from ggufio.ggml_reader import Array

ReadRows = Callable[[int, int], Array]
"""Reads rows of the GGUF's tensor: (first, count) -> [count, width]."""

_BITS, _SMALLEST = {BF16: 7, F16: 10}, {BF16: -126, F16: -14}  # stored bits of precision, smallest exponent
_MAX_EXCESS = 2e-3  # of the difference's energy: 4e-4 where a tenth of the weights' size was merged
_SLAB = 2**18  # elements at a time


def steps(values: Array, dtype: int) -> Array:
    """Return the distance between neighbouring numbers of the type at each value."""
    exponent = np.where(values == 0, _SMALLEST[dtype], np.frexp(values)[1] - 1)
    exponent = np.maximum(exponent, _SMALLEST[dtype])
    found: Array = np.ldexp(np.float32(1), exponent - _BITS[dtype]).astype(np.float32)
    return found


def is_rounding(expected: Array, read: ReadRows, dtype: int) -> bool:
    """Return whether rounding twice to the type explains the difference to the GGUF's tensor.

    `expected` is [rows, width]. A small excess is allowed: the change itself was rounded too.
    """
    error = excess = 0.0
    count = max(1, _SLAB // expected.shape[1])
    for first in range(0, len(expected), count):
        part = expected[first : first + count]
        actual = read(first, len(part))
        larger = np.maximum(np.abs(actual), np.abs(part))
        allowed = steps(larger, dtype) + steps(larger, F16) / 2  # the GGUF's own rounding may be f16's
        difference = np.abs(actual - part)
        beyond = np.maximum(difference - allowed, 0)
        error += float(np.vdot(difference, difference))
        excess += float(np.vdot(beyond, beyond))
    return bool(np.isfinite(error)) and excess <= _MAX_EXCESS * error


def is_bfloat16(rows: int, read: ReadRows, width: int) -> bool:
    """Return whether all values of a tensor are numbers that bfloat16 has too."""
    count = max(1, _SLAB // width)
    return all(
        not (np.ascontiguousarray(read(first, min(count, rows - first))).view(np.uint32) & 0xFFFF).any()
        for first in range(0, rows, count)
    )
