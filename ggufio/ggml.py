"""ggml's number types, and its conversions to and from float32, through ctypes (ggml.h, gguf.h).

The one binding to ggml. llama_cpp is loaded by the first call, so that importing this module stays cheap.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import MissingPackage

Floats = npt.NDArray[np.float32]

Pointer, Text, Size, Int = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64
Type = ctypes.c_int  # enum ggml_type
F32, F16, BF16 = 0, 1, 30  # of enum ggml_type

_ToFloat = ctypes.CFUNCTYPE(None, Pointer, Pointer, Int)


class InitParams(ctypes.Structure):
    """struct gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(Pointer)))


class _Traits(ctypes.Structure):
    """struct ggml_type_traits."""

    _fields_ = (
        ("type_name", Text),
        ("blck_size", Int),
        ("blck_size_interleave", Int),
        ("type_size", Size),
        ("is_quantized", ctypes.c_bool),
        ("to_float", Pointer),
        ("from_float_ref", Pointer),
    )


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_blck_size": (Int, (Type,)),
    "ggml_fp16_to_fp32_row": (None, (Pointer, Pointer, Int)),
    "ggml_fp32_to_bf16_row": (None, (Pointer, Pointer, Int)),
    "ggml_fp32_to_fp16_row": (None, (Pointer, Pointer, Int)),
    "ggml_free": (None, (Pointer,)),
    "ggml_get_tensor": (Pointer, (Pointer, Text)),
    "ggml_get_type_traits": (ctypes.POINTER(_Traits), (Type,)),
    "ggml_quantize_chunk": (Size, (Type, Pointer, Pointer, Int, Int, Int, Pointer)),
    "ggml_row_size": (Size, (Type, Int)),
    "ggml_type_name": (Text, (Type,)),
    "gguf_add_tensor": (None, (Pointer, Pointer)),
    "gguf_free": (None, (Pointer,)),
    "gguf_get_data_offset": (Size, (Pointer,)),
    "gguf_get_meta_data": (None, (Pointer, Pointer)),
    "gguf_get_meta_size": (Size, (Pointer,)),
    "gguf_get_n_tensors": (Int, (Pointer,)),
    "gguf_get_tensor_name": (Text, (Pointer, Int)),
    "gguf_get_tensor_ne": (ctypes.POINTER(Int), (Pointer, Int)),
    "gguf_get_tensor_offset": (Size, (Pointer, Int)),
    "gguf_get_tensor_type": (Type, (Pointer, Int)),
    "gguf_init_empty": (Pointer, ()),
    "gguf_init_from_file": (Pointer, (Text, InitParams)),
    "gguf_set_kv": (None, (Pointer, Pointer)),
    "gguf_set_tensor_type": (None, (Pointer, Text, Type)),
    "gguf_set_val_i32": (None, (Pointer, Text, ctypes.c_int32)),
    "gguf_set_val_str": (None, (Pointer, Text, Text)),
    "gguf_set_val_u16": (None, (Pointer, Text, ctypes.c_uint16)),
    "gguf_set_val_u32": (None, (Pointer, Text, ctypes.c_uint32)),
}


@cache
def library() -> Any:
    """Return libllama's handle with the types of the functions above set. Raises MissingPackage."""
    # Through libllama's handle: dlsym searches what it links to, and a build may hold other copies of ggml.
    found = _llama_cpp()._lib
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


@dataclass(frozen=True)
class GGMLType:
    """A tensor's number type: `block` numbers at a time are stored in `size` bytes.

    `name` is as in file names: Q4_K, F16. Only `readable` types can be converted to float32.
    """

    number: int
    name: str
    block: int
    size: int
    quantized: bool
    readable: bool

    @property
    def bits(self) -> float:
        """Bits per number."""
        return 8 * self.size / self.block


@cache
def ggml_type(number: int) -> GGMLType | None:
    """Return the type of a number of `enum ggml_type`; None when this llama.cpp has no such type."""
    if not 0 <= number < _llama_cpp().GGML_TYPE_COUNT:  # ggml itself reads beyond its table
        return None
    traits = _traits(number)
    if not traits.blck_size or not traits.type_size:
        return None
    name = traits.type_name.decode().upper()
    readable = number == F32 or bool(traits.to_float)
    return GGMLType(number, name, traits.blck_size, traits.type_size, traits.is_quantized, readable)


@cache
def ggml_type_named(name: str) -> GGMLType:
    """Return the type of that name. Raises KeyError."""
    types = (ggml_type(number) for number in range(_llama_cpp().GGML_TYPE_COUNT))
    return {dtype.name: dtype for dtype in types if dtype is not None}[name]


@cache
def type_name(number: int) -> str:
    """Return the name of a number of `enum ggml_type`, as in file names: Q4_K, F16."""
    return str(library().ggml_type_name(number).decode().upper())


def type_number(name: str) -> int:
    """Return the number of the type of that name. Raises KeyError."""
    return ggml_type_named(name).number


def block_size(name: str) -> int:
    """Return how many numbers of a row make a block of that type. Raises KeyError."""
    return ggml_type_named(name).block


def dequantize(dtype: GGMLType, data: bytes | npt.NDArray[np.uint8]) -> Floats:
    """Return whole blocks of a readable type, in contiguous bytes, as float32 in one dimension."""
    raw = np.frombuffer(data, np.uint8)
    assert dtype.readable and raw.size % dtype.size == 0
    numbers: Floats = np.empty(raw.size // dtype.size * dtype.block, np.float32)
    if dtype.number == F32:
        numbers.view(np.uint8)[:] = raw
    else:
        _ToFloat(_traits(dtype.number).to_float)(raw.ctypes.data, numbers.ctypes.data, numbers.size)
    return numbers


def quantize(dtype: GGMLType, rows: Floats) -> bytes:
    """Quantize rows (n, width) by ggml's reference quantizer; whole blocks must fill a row."""
    count, width = rows.shape
    assert width % dtype.block == 0
    rows = np.ascontiguousarray(rows)
    out = ctypes.create_string_buffer(rows.size // dtype.block * dtype.size)
    library().ggml_quantize_chunk(dtype.number, rows.ctypes.data, out, 0, count, width, None)
    return out.raw


def _traits(number: int) -> Any:
    return library().ggml_get_type_traits(number).contents


@cache
def _llama_cpp() -> Any:
    try:
        from llama_cpp import llama_cpp
    except ImportError as error:
        raise MissingPackage("llama-cpp-python") from error
    return llama_cpp
