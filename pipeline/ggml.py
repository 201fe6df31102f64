"""llama.cpp's quantizers and GGUF headers, as the installed llama-cpp-python holds them (ggml.h, gguf.h)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import MissingPackage, PipelineError

_Pointer, _Text, _Size, _Int = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64
_Type = ctypes.c_int  # enum ggml_type
F32, F16, BF16 = 0, 1, 30  # of it
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


class _InitParams(ctypes.Structure):
    """struct gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(_Pointer)))


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_blck_size": (_Int, (_Type,)),
    "ggml_fp16_to_fp32_row": (None, (_Pointer, _Pointer, _Int)),
    "ggml_fp32_to_bf16_row": (None, (_Pointer, _Pointer, _Int)),
    "ggml_fp32_to_fp16_row": (None, (_Pointer, _Pointer, _Int)),
    "ggml_free": (None, (_Pointer,)),
    "ggml_get_tensor": (_Pointer, (_Pointer, _Text)),
    "ggml_quantize_chunk": (_Size, (_Type, _Pointer, _Pointer, _Int, _Int, _Int, _Pointer)),
    "ggml_row_size": (_Size, (_Type, _Int)),
    "ggml_type_name": (_Text, (_Type,)),
    "gguf_add_tensor": (None, (_Pointer, _Pointer)),
    "gguf_free": (None, (_Pointer,)),
    "gguf_get_data_offset": (_Size, (_Pointer,)),
    "gguf_get_meta_data": (None, (_Pointer, _Pointer)),
    "gguf_get_meta_size": (_Size, (_Pointer,)),
    "gguf_get_n_tensors": (_Int, (_Pointer,)),
    "gguf_get_tensor_name": (_Text, (_Pointer, _Int)),
    "gguf_get_tensor_ne": (ctypes.POINTER(_Int), (_Pointer, _Int)),
    "gguf_get_tensor_offset": (_Size, (_Pointer, _Int)),
    "gguf_get_tensor_type": (_Type, (_Pointer, _Int)),
    "gguf_init_empty": (_Pointer, ()),
    "gguf_init_from_file": (_Pointer, (_Text, _InitParams)),
    "gguf_set_kv": (None, (_Pointer, _Pointer)),
    "gguf_set_tensor_type": (None, (_Pointer, _Text, _Type)),
    "gguf_set_val_i32": (None, (_Pointer, _Text, ctypes.c_int32)),
    "gguf_set_val_str": (None, (_Pointer, _Text, _Text)),
    "gguf_set_val_u16": (None, (_Pointer, _Text, ctypes.c_uint16)),
    "gguf_set_val_u32": (None, (_Pointer, _Text, ctypes.c_uint32)),
}


@cache
def library() -> Any:
    """The functions above, with their types. Raises MissingPackage."""
    try:
        from llama_cpp import llama_cpp as low
    except ImportError as error:
        raise MissingPackage("llama-cpp-python") from error
    # Through libllama's handle: dlsym searches what it links to, and a build may hold other copies of ggml.
    found = low._lib
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


@cache
def type_name(number: int) -> str:
    """The name of a type of `enum ggml_type`, as in file names: Q4_K, F16."""
    return str(library().ggml_type_name(number).decode().upper())


@cache
def type_number(name: str) -> int:
    """The number of a type of that name. Raises KeyError."""
    from llama_cpp import llama_cpp as low

    return {type_name(number): number for number in range(low.GGML_TYPE_COUNT)}[name]


def block_size(name: str) -> int:
    """How many numbers of a row make a block of that type."""
    return int(library().ggml_blck_size(type_number(name)))


@dataclass(frozen=True)
class Tensor:
    """A tensor in a GGUF file: `rows` of `width` numbers each, from byte `offset` of the file on.

    Experts have one matrix each of `height` rows, one after the other.
    """

    name: str
    type: int
    width: int
    rows: int
    height: int
    offset: int

    @property
    def row_bytes(self) -> int:
        """The size of one row."""
        return int(library().ggml_row_size(self.type, self.width))

    @property
    def size(self) -> int:
        """The size of all rows in bytes."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Shard:
    """Which of how many files it is, counted from 0, and how many tensors they hold together."""

    number: int = 0
    count: int = 1
    tensors: int = 0


WHOLE = Shard()


class GgufFile:
    """The header of a GGUF file; its tensors' data is left on the disk."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises PipelineError when it is not a GGUF file."""
        self._lib = library()
        self._tensors = _Pointer()  # a ggml_context
        parameters = _InitParams(no_alloc=True, ctx=ctypes.pointer(self._tensors))
        self._header = self._lib.gguf_init_from_file(str(path).encode(), parameters)
        if not self._header:
            raise PipelineError(f"{path} is not a whole GGUF file")

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, in their order."""
        return _tensors_of(self._header, self._lib.gguf_get_data_offset(self._header))

    def quantized(
        self,
        types: Mapping[str, int],
        file_type: int | None,
        shard: Shard = WHOLE,
        notes: Mapping[str, str | int] | None = None,
    ) -> tuple[bytes, dict[str, Tensor]]:
        """The header of a file with the same metadata, and tensors in the order and the types of `types`.

        By the very calls of llama.cpp's quantizer (src/llama-quant.cpp), so that it is the same to the byte.
        Without a `file_type` it stays what it is. The metadata is in the first of several shards alone, and
        `notes` are added to it.
        """
        lib, header = self._lib, self._lib.gguf_init_empty()
        try:
            if shard.number == 0:
                lib.gguf_set_kv(header, self._header)
            if shard.number == 0 and file_type is not None:
                lib.gguf_set_val_u32(header, b"general.quantization_version", _QUANTIZATION_VERSION)
                lib.gguf_set_val_u32(header, b"general.file_type", file_type)
            for key, value in (notes or {}).items() if shard.number == 0 else ():
                self._note(header, key, value)
            if shard.count > 1:
                lib.gguf_set_val_u16(header, b"split.no", shard.number)
                lib.gguf_set_val_u16(header, b"split.count", shard.count)
                lib.gguf_set_val_i32(header, b"split.tensors.count", shard.tensors)
            for name, number in types.items():
                lib.gguf_add_tensor(header, lib.ggml_get_tensor(self._tensors, name.encode()))
                lib.gguf_set_tensor_type(header, name.encode(), number)
            content = ctypes.create_string_buffer(lib.gguf_get_meta_size(header))
            lib.gguf_get_meta_data(header, content)
            return content.raw, _tensors_of(header, len(content))
        finally:
            lib.gguf_free(header)

    def _note(self, header: int, key: str, value: str | int) -> None:
        if isinstance(value, int):
            self._lib.gguf_set_val_u32(header, key.encode(), value)
        else:
            self._lib.gguf_set_val_str(header, key.encode(), value.encode())

    def close(self) -> None:
        """Free the header."""
        self._lib.gguf_free(self._header)
        self._lib.ggml_free(self._tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a GGUF file by name. Raises PipelineError when it is not one."""
    opened = GgufFile(path)
    try:
        return opened.tensors()
    finally:
        opened.close()


def _tensors_of(header: int, data: int) -> dict[str, Tensor]:
    lib, found = library(), {}
    for index in range(lib.gguf_get_n_tensors(header)):
        name = lib.gguf_get_tensor_name(header, index).decode()
        width, *rows = lib.gguf_get_tensor_ne(header, index)[:4]
        number = lib.gguf_get_tensor_type(header, index)
        offset = data + lib.gguf_get_tensor_offset(header, index)
        found[name] = Tensor(name, number, width, math.prod(rows), rows[0], offset)
    return found
