"""Reads tensors of safetensors files as float32, whole or some of their rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml_reader import Array, bf16_to_float32, to_float32

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file; `start` is the offset of its first byte."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class SafetensorsReader:
    """Reads the floating-point tensors of safetensors files by name."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Read the headers. The files must be valid, which pipeline.sources.model_source checks."""
        self.tensors: dict[str, StoredTensor] = {}
        for path in files:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, item in header.items():
                if name != "__metadata__" and item["dtype"] in _DTYPES:
                    start = 8 + length + item["data_offsets"][0]
                    self.tensors[name] = StoredTensor(path, item["dtype"], tuple(item["shape"]), start)

    def read(self, name: str) -> Array:
        """Return a float32 copy of the tensor."""
        return to_float32(self._mapped(name)).reshape(self.tensors[name].shape)

    def sample_rows(self, name: str, count: int) -> Array:
        """Return up to `count` evenly spaced rows of a tensor of two or more dimensions: [rows, width].

        Needs no llama.cpp.
        """
        *_, width = shape = self.tensors[name].shape
        rows = math.prod(shape[:-1])
        places = [index * rows // min(count, rows) for index in range(min(count, rows))]
        chosen = np.ascontiguousarray(self._mapped(name).reshape(rows, width)[places])
        return bf16_to_float32(chosen) if chosen.dtype == np.uint16 else chosen.astype(np.float32)

    def _mapped(self, name: str) -> NDArray[Any]:
        tensor = self.tensors[name]
        return np.memmap(tensor.path, _DTYPES[tensor.dtype], "r", tensor.start, tensor.shape or (1,))
