"""A checkpoint's tensors as numpy arrays, without torch: the safetensors format is a header and raw bytes.

The header is JSON after its length in 8 bytes; offsets count from its end
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its type, its shape, and the byte where it begins."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class StoredTensors:
    """Tensors of safetensors files by name; those of types other than floating point are left out."""

    def __init__(self, files: Iterable[Path]) -> None:
        """The files were checked before (pipeline.source)."""
        self.entries: dict[str, Entry] = {}
        for path in files:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, item in header.items():
                if name != "__metadata__" and item["dtype"] in _TYPES:
                    start = 8 + length + item["data_offsets"][0]
                    self.entries[name] = Entry(path, item["dtype"], tuple(item["shape"]), start)

    def read(self, name: str) -> Array:
        """The tensor in float32, in memory of its own."""
        entry = self.entries[name]
        raw = np.memmap(entry.path, _TYPES[entry.dtype], "r", entry.start, entry.shape or (1,))
        return from_bf16(raw) if entry.dtype == "BF16" else raw.astype(np.float32).reshape(entry.shape)


def from_bf16(bits: NDArray[np.uint16]) -> Array:
    """bfloat16 is the upper half of float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
