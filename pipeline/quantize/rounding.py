"""Rounds rows of numbers to a ggml type: the one place that decides the bytes of a quantized tensor.

The writer stores these bytes; training through a rounded base uses the numbers that they stand for. The most
common types have kernels here (k_quants.py), the others use llama.cpp's.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from ggufio.ggml import F32, library, type_name
from ggufio.ggml_reader import rounded_to
from pipeline.quantize.k_quant_search import Floats
from pipeline.quantize.k_quants import Bytes, TooSmall, exact_quantizer

_CHUNK = 1 << 16  # numbers; what is read and written of them stays in a core's cache


def quantize_rows(rows: Floats, dtype: int, importance: Floats | None = None) -> Bytes:
    """Quantize rows [rows, width] to the `enum ggml_type`; return [rows, bytes of a row], llama.cpp's bytes.

    `importance` [width] weights the columns' errors. Runs without the GIL.
    """
    if importance is None and (quantize := exact_quantizer(dtype)) is not None:
        with suppress(TooSmall):
            return quantize(rows).reshape(len(rows), -1)
    result = np.empty((len(rows), library().ggml_row_size(dtype, rows.shape[1])), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    library().ggml_quantize_chunk(dtype, rows.ctypes.data, result.ctypes.data, 0, *rows.shape, weights)
    return result


def dequantize_rows(data: Bytes, dtype: int, out: Floats) -> None:
    """Write the numbers that quantized rows [rows, bytes of a row] stand for to `out` [rows, width]."""
    if dtype == F32:
        out.view(np.uint8)[:] = data
    else:
        _to_float(dtype)(data.ctypes.data, out.ctypes.data, out.size)


def round_in_place(rows: Floats, full_type: int, dtype: int, importance: Floats | None = None) -> None:
    """Replace rows [rows, width] by what a file holds of them: rounded to `full_type`, then to `dtype`.

    `full_type` is the type of the GGUF that is quantized (F16, BF16 or F32). The rows must be contiguous.
    """
    assert rows.flags.c_contiguous and rows.dtype == np.float32
    step = max(1, _CHUNK // rows.shape[1])
    if exact_quantizer(dtype) is not None:
        step *= 16  # its kernel takes many blocks side by side
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        part[...] = rounded_to(part, full_type)
        if dtype != full_type:
            dequantize_rows(quantize_rows(part, dtype, importance), dtype, part)


@cache
def _to_float(dtype: int) -> Any:
    convert = library().ggml_get_type_traits(dtype).contents.to_float
    if not convert:
        raise ValueError(f"{type_name(dtype)} cannot be converted to float32")
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(convert)
