"""Rounds rows of numbers to a ggml type: the one place that decides the bytes of a quantized tensor.

The writer stores these bytes; training through a rounded base uses their values as numbers. The most common
types have kernels here (k_quants.py), the others use llama.cpp's.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from ggufio.ggml import dequantize, ggml_type, library
from ggufio.ggml_reader import rounded_to
from pipeline.errors import InputError
from pipeline.quantize.grids import keep_grid
from pipeline.quantize.k_quant_search import Floats
from pipeline.quantize.k_quants import TooSmall, exact_quantizer, exact_weighted_quantizer, has_kernel
from pipeline.quantize.packing import Bytes

_CHUNK = 1 << 16  # numbers; what is read and written of them stays in a core's cache


def quantize_rows(rows: Floats, dtype: int, importance: Floats | None = None) -> Bytes:
    """Quantize rows [rows, width] to the `enum ggml_type`; return [rows, bytes of a row].

    They are llama.cpp's bytes, but for blocks that lie on the type's grid already and that llama.cpp would
    move off it (grids.py). `importance` [width] weights the columns' errors. Runs without the GIL.
    """
    result = _quantize(rows, dtype, importance)
    keep_grid(rows, dtype, result, importance)
    return result


def _quantize(rows: Floats, dtype: int, importance: Floats | None) -> Bytes:
    """Quantize rows [rows, width] to llama.cpp's bytes."""
    with suppress(TooSmall):
        if importance is None and (quantize := exact_quantizer(dtype)) is not None:
            return quantize(rows).reshape(len(rows), -1)
        if importance is not None and (weighted := exact_weighted_quantizer(dtype)) is not None:
            return weighted(rows, importance).reshape(len(rows), -1)
    result = np.empty((len(rows), library().ggml_row_size(dtype, rows.shape[1])), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    library().ggml_quantize_chunk(dtype, rows.ctypes.data, result.ctypes.data, 0, *rows.shape, weights)
    return result


def rounded_rows(rows: Floats, dtype: int, importance: Floats | None = None) -> Floats:
    """Return what quantized rows hold of rows [rows, width]: the same shape."""
    kind = ggml_type(dtype)
    assert kind is not None, dtype
    return dequantize(kind, quantize_rows(rows, dtype, importance)).reshape(rows.shape)


def round_in_place(rows: Floats, full_type: int, dtype: int, importance: Floats | None = None) -> None:
    """Replace rows [rows, width] by what a file holds of them: rounded to `full_type`, then to `dtype`.

    `full_type` is the type of the GGUF that is quantized (F16, BF16 or F32). The rows must be contiguous.
    """
    assert rows.flags.c_contiguous and rows.dtype == np.float32
    step = max(1, _CHUNK // rows.shape[1])
    if has_kernel(dtype, weighted=importance is not None):
        step *= 16  # its kernel takes many blocks side by side
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        part[...] = rounded_to(part, full_type)
        if dtype != full_type:
            part[...] = rounded_rows(part, dtype, importance)


def not_finite(tensor: str) -> InputError:
    """Return the error for a tensor of a full-precision GGUF that cannot be quantized."""
    return InputError(
        f"the model's {tensor} holds numbers that are infinite or not a number: its checkpoint is "
        "damaged, or too large for this --outtype (try bf16 or f32)"
    )
