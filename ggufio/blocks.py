"""Scales and minima of quantized blocks (ggml-common.h), samples of tensors, and rounding errors.

A block's values are `step * code + minimum`. A symmetric type has no minimum: zero is always the middle code.
An asymmetric one shifts its codes to the range of the block's values. K-quants store the scales of their
blocks as integers, times one or two f16 factors for 256 values, and their minimum is never above zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggufio.errors import GgufError
from ggufio.ggml import Floats, GGMLType, dequantize, ggml_type_named, quantize
from ggufio.untrusted_reader import TensorInfo, read_rows

_Bytes = npt.NDArray[np.uint8]  # (blocks, bytes of a block)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a tensor: `length` values each, stored as one of `codes` codes.

    `step` and `minimum` have an entry for each block, in the file's order; `minimum` is the value of code 0.
    A step may be negative: Q4_0 chooses the sign so that the largest value of a block is exact.
    """

    length: int
    codes: int
    symmetric: bool
    step: Floats
    minimum: Floats

    @property
    def zero_point(self) -> Floats:
        """Return the code of 0, which may be fractional; NaN where all values are equal."""
        step = np.where(self.step == 0, np.float32("nan"), self.step)
        code: Floats = np.divide(-self.minimum, step, dtype=np.float32)
        return code


def blocks_of(dtype: GGMLType, data: bytes) -> Blocks | None:
    """Return the blocks of some rows; None for a type without a uniform grid, like F16 or IQ4_NL."""
    if dtype.name not in _LAYOUTS:
        return None
    layout = _LAYOUTS[dtype.name]
    step, minimum = layout.unpack(np.frombuffer(data, np.uint8).reshape(-1, dtype.size))
    if minimum is None:
        return Blocks(layout.length, layout.codes, True, step.ravel(), (-(layout.codes // 2) * step).ravel())
    return Blocks(layout.length, layout.codes, False, step.ravel(), minimum.ravel())


def is_symmetric(dtype: GGMLType) -> bool | None:
    """Return whether zero is the same code in all blocks; None for a type without a uniform grid."""
    return _LAYOUTS[dtype.name].symmetric if dtype.name in _LAYOUTS else None


_Unpacked = tuple[Floats, Floats | None]  # steps and minima, (blocks of ggml, blocks in these)


def _one(raw: _Bytes) -> _Unpacked:
    """d"""
    return _f16(raw, 0), None


def _two(raw: _Bytes) -> _Unpacked:
    """d, m"""
    return _f16(raw, 0), _f16(raw, 2)


def _q2_k(raw: _Bytes) -> _Unpacked:
    """16 bytes of a scale and a minimum in 4 bits each, 64 of codes, d, dmin"""
    packed = raw[:, :16]
    return _f16(raw, 80) * (packed & 15), -_f16(raw, 82) * (packed >> 4)


def _q3_k(raw: _Bytes) -> _Unpacked:
    """32 + 64 bytes of codes, 12 of 6-bit scales around 32, d"""
    low, high = raw[:, 96:104], raw[:, 104:108]
    nibbles = np.concatenate([low & 15, low >> 4], axis=1)
    tops = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    return _f16(raw, 108) * ((nibbles | tops << 4).astype(np.float32) - 32), None


def _q4_k(raw: _Bytes) -> _Unpacked:
    """d, dmin, 12 bytes of 6-bit scales and minima; get_scale_min_k4 of ggml-quants.c"""
    first, second, third = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return _f16(raw, 0) * scales, -_f16(raw, 2) * minima


def _q6_k(raw: _Bytes) -> _Unpacked:
    """128 + 64 bytes of codes, 16 signed scales, d"""
    return _f16(raw, 208) * np.ascontiguousarray(raw[:, 192:208]).view(np.int8), None


def _tq1_0(raw: _Bytes) -> _Unpacked:
    """48 bytes of five codes each, 4 of four, d"""
    return _f16(raw, 52), None


def _tq2_0(raw: _Bytes) -> _Unpacked:
    """64 bytes of four codes each, d"""
    return _f16(raw, 64), None


@dataclass(frozen=True)
class _Layout:
    length: int
    codes: int
    symmetric: bool
    unpack: Callable[[_Bytes], _Unpacked]


_LAYOUTS = {
    "Q4_0": _Layout(32, 16, True, _one),
    "Q4_1": _Layout(32, 16, False, _two),
    "Q5_0": _Layout(32, 32, True, _one),
    "Q5_1": _Layout(32, 32, False, _two),
    "Q8_0": _Layout(32, 256, True, _one),
    "Q2_K": _Layout(16, 4, False, _q2_k),
    "Q3_K": _Layout(16, 8, True, _q3_k),
    "Q4_K": _Layout(32, 16, False, _q4_k),
    "Q5_K": _Layout(32, 32, False, _q4_k),  # the same head, then the fifth bits
    "Q6_K": _Layout(16, 64, True, _q6_k),
    "TQ1_0": _Layout(256, 3, True, _tq1_0),  # -1, 0 and 1 times a scale
    "TQ2_0": _Layout(256, 3, True, _tq2_0),
}


def _f16(raw: _Bytes, at: int) -> Floats:
    """Return the f16 at a byte of each block, as a column."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


MAX_NUMBERS = 1 << 19  # half a million are representative, and take a tenth of a second per type


@dataclass(frozen=True)
class Sample:
    """Some rows of a tensor as float32, (rows, width), and their blocks if its type has any."""

    values: Floats
    blocks: Blocks | None
    of_rows: int

    @property
    def whole(self) -> bool:
        """Return whether these are all rows."""
        return len(self.values) == self.of_rows


@dataclass(frozen=True)
class Error:
    """A rounding error: its RMS, its RMS relative to the values' RMS, and its maximum."""

    rms: float
    relative: float
    worst: float


@dataclass(frozen=True)
class RoundTrip:
    """A sample rounded to a type and back."""

    dtype: GGMLType
    values: Floats
    blocks: Blocks | None
    error: Error


def sample(tensor: TensorInfo, max_numbers: int = MAX_NUMBERS) -> Sample:
    """Read evenly spaced rows of a tensor, about `max_numbers` values. Raises GgufError.

    Tensors of the same shape give the same rows, whatever their types.
    """
    if not tensor.dtype.readable or not tensor.width or not tensor.rows:
        raise GgufError(f"tensor {tensor.name!r} has no numbers to show (its type is {tensor.dtype.name})")
    if tensor.width > 4 * max_numbers:
        raise GgufError(f"tensor {tensor.name!r} has rows of {tensor.width} numbers: too long to show")
    count = min(tensor.rows, max(1, max_numbers // tensor.width))
    data = read_rows(tensor, (index * tensor.rows // count for index in range(count)))
    values = dequantize(tensor.dtype, data).reshape(count, tensor.width)
    if not np.isfinite(values).all():
        raise GgufError(f"tensor {tensor.name!r} holds numbers that are not finite: export it again")
    return Sample(values, blocks_of(tensor.dtype, data), tensor.rows)


def round_trip(values: Floats, name: str) -> RoundTrip | None:
    """Round rows to the named type and back; None when its blocks do not fill a row."""
    dtype = ggml_type_named(name)
    if values.shape[1] % dtype.block:
        return None
    data = quantize(dtype, values)
    after = dequantize(dtype, data).reshape(values.shape)
    return RoundTrip(dtype, after, blocks_of(dtype, data), error_of(values, after))


def error_of(before: Floats, after: Floats) -> Error:
    """Return the error between arrays of the same shape; `relative` is NaN when all values are 0."""
    moved = after.astype(np.float64) - before
    size = _rms(before.astype(np.float64))
    return Error(_rms(moved), _rms(moved) / size if size else float("nan"), float(np.abs(moved).max()))


def _rms(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(np.sqrt(np.square(values).mean()))
