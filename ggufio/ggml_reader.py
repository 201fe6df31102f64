"""Reader and header writer for trusted GGUF files, by the installed llama.cpp (ggml.h, gguf.h)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufio.errors import GgufError
from ggufio.ggml import BF16, F16, F32, InitParams, Pointer, library
from ggufio.shards import shard_paths

Array = NDArray[np.float32]


def to_float32(raw: NDArray[Any]) -> Array:
    """Convert values of an unquantized type to float32; bfloat16 is given as uint16."""
    if raw.dtype == np.float16:
        return _from_f16(np.ascontiguousarray(raw))
    return bf16_to_float32(raw) if raw.dtype == np.uint16 else raw.astype(np.float32)


def _from_f16(raw: NDArray[np.float16]) -> Array:
    """Convert by ggml, in half of numpy's time."""
    wide = np.empty(raw.shape, np.float32)
    library().ggml_fp16_to_fp32_row(raw.ctypes.data, wide.ctypes.data, raw.size)
    return wide


def bf16_to_float32(bits: NDArray[np.uint16]) -> Array:
    """Convert bfloat16 bits, the upper half of float32's."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


_ALIGNMENT = 32  # bytes; GGUF_DEFAULT_ALIGNMENT
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


@dataclass(frozen=True)
class TensorLocation:
    """A tensor in a GGUF file: `rows` rows of `width` values, from byte `offset` of the file.

    Each expert has a matrix of `height` rows, one after the other.
    """

    name: str
    type: int
    width: int
    rows: int
    height: int
    offset: int

    @property
    def row_bytes(self) -> int:
        """Return the size of one row in bytes."""
        return int(library().ggml_row_size(self.type, self.width))

    @property
    def size(self) -> int:
        """Return the size of all rows in bytes."""
        return self.rows * self.row_bytes


def padded(size: int) -> int:
    """Return the bytes that a tensor of `size` bytes takes in a file that llama.cpp's quantizer writes."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class Shard:
    """A shard's number, from 0, the count of shards, and the count of tensors in all of them."""

    number: int = 0
    count: int = 1
    tensors: int = 0


WHOLE = Shard()


class GgufFile:
    """The header of a GGUF file; the tensors' data stays on the disk."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises GgufError when it is not a GGUF file."""
        self._lib = library()
        self._tensors = Pointer()  # a ggml_context
        parameters = InitParams(no_alloc=True, ctx=ctypes.pointer(self._tensors))
        self._header = self._lib.gguf_init_from_file(str(path).encode(), parameters)
        if not self._header:
            raise GgufError(f"{path} is not a whole GGUF file")

    def tensors(self) -> dict[str, TensorLocation]:
        """Return the tensors by name, in the file's order."""
        return _tensors_of(self._header, self._lib.gguf_get_data_offset(self._header))

    def quantized(
        self,
        types: Mapping[str, int],
        file_type: int | None,
        shard: Shard = WHOLE,
        notes: Mapping[str, str | int] | None = None,
    ) -> tuple[bytes, dict[str, TensorLocation]]:
        """Return a header with the same metadata, and the tensors in the order and types of `types`.

        Makes the calls of llama.cpp's quantizer (src/llama-quant.cpp), so that the bytes are identical.
        Without a `file_type` the file's own stays. Only the first shard has the metadata, with `notes` added.
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


def read_tensors(path: Path) -> dict[str, TensorLocation]:
    """Return the tensors of a GGUF file by name. Raises GgufError when it is not one."""
    opened = GgufFile(path)
    try:
        return opened.tensors()
    finally:
        opened.close()


def _tensors_of(header: int, data: int) -> dict[str, TensorLocation]:
    lib, found = library(), {}
    for index in range(lib.gguf_get_n_tensors(header)):
        name = lib.gguf_get_tensor_name(header, index).decode()
        width, *rows = lib.gguf_get_tensor_ne(header, index)[:4]
        number = lib.gguf_get_tensor_type(header, index)
        offset = data + lib.gguf_get_tensor_offset(header, index)
        found[name] = TensorLocation(name, number, width, math.prod(rows), rows[0], offset)
    return found


UNQUANTIZED = {F32: np.float32, F16: np.float16, BF16: np.uint16}
"""The unquantized ggml types and their numpy types."""


def rounded_to(values: Array, dtype: int) -> Array:
    """Round values to an unquantized ggml type and back; other types leave them unchanged."""
    if dtype not in (F16, BF16):
        return values
    values, narrow = np.ascontiguousarray(values), np.empty(values.shape, UNQUANTIZED[dtype])
    round_row = library().ggml_fp32_to_fp16_row if dtype == F16 else library().ggml_fp32_to_bf16_row
    round_row(values.ctypes.data, narrow.ctypes.data, values.size)
    return to_float32(narrow)


class GgufTensors:
    """The tensors of a GGUF by name, over all its shards."""

    def __init__(self, path: Path) -> None:
        """`path` is the file, or any shard. Raises GgufError when the GGUF is incomplete."""
        self.tensors: dict[str, TensorLocation] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}
        for file in shard_paths(path):
            tensors = read_tensors(file)
            self.tensors |= tensors
            self._bytes |= dict.fromkeys(tensors, np.memmap(file, np.uint8, "r"))

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's bytes, mapped from the file."""
        tensor = self.tensors[name]
        return self._bytes[name][tensor.offset : tensor.offset + tensor.size]

    def read(self, name: str, first: int, count: int) -> Array:
        """Return `count` rows of a tensor from row `first`, as float32: [count, width]."""
        tensor = self.tensors[name]
        start = tensor.offset + first * tensor.row_bytes
        raw = self._bytes[name][start : start + count * tensor.row_bytes].reshape(count, tensor.row_bytes)
        plain = UNQUANTIZED.get(tensor.type)
        if plain is None:
            return _dequantized(raw, tensor.type)
        return to_float32(raw.view(plain))


def _dequantized(raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], dtype: int) -> Array:
    from gguf import GGMLQuantizationType, quants

    values: Array = quants.dequantize(raw, GGMLQuantizationType(dtype))
    return values
