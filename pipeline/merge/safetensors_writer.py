"""Write safetensors files one tensor at a time: the library's own writer needs all tensors in memory.

The header is written first, from shapes and types alone. A file has the bytes that safetensors' `save_file`
writes for the same tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from common.errors import MissingPackage

try:
    import torch
except ImportError as error:
    raise MissingPackage(error.name or "torch") from error

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""The types by their names in safetensors' headers, in the order in which it sorts tensors, last first."""

_RANKS = {name: place for place, name in enumerate(DTYPES)}
_METADATA = {"format": "pt"}
_ALIGNMENT = 8


@dataclass(frozen=True)
class PlannedTensor:
    """The type, as a key of DTYPES, and the shape of a tensor that is to be written."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.elements * DTYPES[self.dtype].itemsize


def write_safetensors(
    path: Path,
    tensors: Mapping[str, PlannedTensor],
    read: Callable[[str], torch.Tensor],
    written: Callable[[int], None] = lambda size: None,
) -> None:
    """Write a file of `tensors`, which `read` returns in the order of the mapping, each once.

    `written` is called with the bytes of each. Raises OSError, also for a full disk.
    """
    header, offsets = _header(tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(tensor.size for tensor in tensors.values()))
        for name, planned in tensors.items():
            file.seek(len(header) + offsets[name])
            _write(file, name, planned, read(name))
            written(planned.size)


def _write(file: IO[bytes], name: str, planned: PlannedTensor, value: torch.Tensor) -> None:
    found = (value.dtype, tuple(value.shape))
    assert found == (DTYPES[planned.dtype], planned.shape), (name, found, planned)
    file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _header(tensors: Mapping[str, PlannedTensor]) -> tuple[bytes, dict[str, int]]:
    """Return a file's first bytes, and the offset of each tensor after them."""
    content: dict[str, object] = {"__metadata__": _METADATA}
    offsets: dict[str, int] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (-_RANKS[tensors[name].dtype], name)):
        offsets[name], end = end, end + tensors[name].size
        planned = tensors[name]
        content[name] = {
            "dtype": planned.dtype,
            "shape": planned.shape,
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, offsets
