"""ggml's number types, and its own way from them to plain numbers and back, through ctypes (ggml.h)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as low

Floats = npt.NDArray[np.float32]

_F32 = 0  # of enum ggml_type
_Pointer, _Int, _Size, _Type = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
_ToFloat = ctypes.CFUNCTYPE(None, _Pointer, _Pointer, _Int)


class _Traits(ctypes.Structure):
    """struct ggml_type_traits."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", _Int),
        ("blck_size_interleave", _Int),
        ("type_size", _Size),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _Pointer),
        ("from_float_ref", _Pointer),
    )


@dataclass(frozen=True)
class NumberType:
    """How a tensor's numbers are kept: `block` numbers at a time, in `size` bytes.

    `name` is as in file names: Q4_K, F16. Only what is `readable` can be turned into plain numbers.
    """

    number: int
    name: str
    block: int
    size: int
    quantized: bool
    readable: bool

    @property
    def bits(self) -> float:
        """Bits for each number."""
        return 8 * self.size / self.block


@cache
def number_type(number: int) -> NumberType | None:
    """The type of a number in a GGUF; None when this llama.cpp knows none such."""
    if not 0 <= number < low.GGML_TYPE_COUNT:  # ggml itself reads beyond its table
        return None
    traits = _traits(number)
    if not traits.blck_size or not traits.type_size:
        return None
    name = traits.type_name.decode().upper()
    readable = number == _F32 or bool(traits.to_float)
    return NumberType(number, name, traits.blck_size, traits.type_size, traits.is_quantized, readable)


@cache
def type_named(name: str) -> NumberType:
    """The type of a name. Raises KeyError."""
    types = (number_type(number) for number in range(low.GGML_TYPE_COUNT))
    return {kind.name: kind for kind in types if kind is not None}[name]


def to_floats(kind: NumberType, data: bytes) -> Floats:
    """Whole blocks of a readable type as plain numbers, in one row."""
    assert kind.readable and len(data) % kind.size == 0
    raw = np.frombuffer(data, np.uint8)
    numbers: Floats = np.empty(raw.size // kind.size * kind.block, np.float32)
    if kind.number == _F32:
        numbers.view(np.uint8)[:] = raw
    else:
        _ToFloat(_traits(kind.number).to_float)(raw.ctypes.data, numbers.ctypes.data, numbers.size)
    return numbers


def quantized(kind: NumberType, rows: Floats) -> bytes:
    """Rows (n, width) in a type whose blocks fill a row, rounded by ggml's own quantizer."""
    count, width = rows.shape
    assert width % kind.block == 0
    rows = np.ascontiguousarray(rows)
    out = ctypes.create_string_buffer(rows.size // kind.block * kind.size)
    _library().ggml_quantize_chunk(kind.number, rows.ctypes.data, out, 0, count, width, None)
    return out.raw


def _traits(number: int) -> Any:
    return _library().ggml_get_type_traits(number).contents


@cache
def _library() -> Any:
    # Through libllama's handle: dlsym searches what it links to, and a build may hold other copies of ggml.
    found = low._lib
    found.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    found.ggml_get_type_traits.argtypes = [_Type]
    found.ggml_quantize_chunk.restype = _Size
    found.ggml_quantize_chunk.argtypes = [_Type, _Pointer, _Pointer, _Int, _Int, _Int, _Pointer]
    return found
