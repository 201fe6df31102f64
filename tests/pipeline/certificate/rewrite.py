"""Change a GGUF: metadata through llama.cpp's own functions, tensors in place."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import library
from ggufio.ggml_reader import GgufFile, read_tensors

Value = str | int | float | bool | list[str] | NDArray[np.int32]


def rewrite(
    source: Path, target: Path, values: Mapping[str, Value] | None = None, without: Collection[str] = ()
) -> Path:
    """Copy `source` with these metadata values, and without these tensors."""
    opened = GgufFile(source)
    for key, value in (values or {}).items():
        _set(opened._header, key.encode(), value)
    tensors = {name: tensor for name, tensor in opened.tensors().items() if name not in without}
    header, places = opened.quantized({name: tensor.type for name, tensor in tensors.items()}, None)
    with source.open("rb") as read, target.open("wb") as write:
        write.write(header)
        for name, tensor in tensors.items():
            read.seek(tensor.offset)
            write.seek(places[name].offset)
            write.write(read.read(tensor.size))
        write.truncate(-(-write.tell() // 32) * 32)  # llama.cpp requires padding after the last one too
    opened.close()
    return target


def _set(header: int, key: bytes, value: Value) -> None:
    lib, pointer = library(), ctypes.c_void_p(header)
    if isinstance(value, bool):
        lib.gguf_set_val_bool(pointer, key, ctypes.c_bool(value))
    elif isinstance(value, str):
        lib.gguf_set_val_str(pointer, key, value.encode())
    elif isinstance(value, int):
        lib.gguf_set_val_u32(pointer, key, ctypes.c_uint32(value))
    elif isinstance(value, float):
        lib.gguf_set_val_f32(pointer, key, ctypes.c_float(value))
    elif isinstance(value, list):
        texts = (ctypes.c_char_p * len(value))(*(text.encode() for text in value))
        lib.gguf_set_arr_str(pointer, key, texts, ctypes.c_size_t(len(value)))
    else:
        data = value.ctypes.data_as(ctypes.c_void_p)
        lib.gguf_set_arr_data(pointer, key, 5, data, ctypes.c_size_t(len(value)))  # GGUF_TYPE_INT32


def tensor_in_place(path: Path, name: str) -> NDArray[np.float16]:
    """Map an f16 tensor of the file, [rows, width]; changes are written to the file."""
    tensor = read_tensors(path)[name]
    return np.memmap(path, np.float16, "r+", tensor.offset, (tensor.rows, tensor.width))


def copy(source: Path, target: Path) -> Path:
    """Copy a file, to change the copy."""
    return Path(shutil.copy(source, target))
