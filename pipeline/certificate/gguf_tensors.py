"""A GGUF's tensors as numpy arrays, in slabs of rows; llama.cpp reads the headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.certificate.stored import Array, widened
from pipeline.ggml import BF16, F16, F32, Tensor, read_tensors
from pipeline.split import shard_paths

PLAIN = {F32: np.float32, F16: np.float16, BF16: np.uint16}
"""The ggml types that are not quantized, and numpy's for them."""


class GgufTensors:
    """The tensors of a GGUF by name, those of all its files."""

    def __init__(self, path: Path) -> None:
        """`path` is the file, or a shard. Raises PipelineError when it is no whole GGUF."""
        self.tensors: dict[str, Tensor] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}
        for file in shard_paths(path):
            tensors = read_tensors(file)
            self.tensors |= tensors
            self._bytes |= dict.fromkeys(tensors, np.memmap(file, np.uint8, "r"))

    def read(self, name: str, first: int, count: int) -> Array:
        """`count` rows of a tensor from `first` on, in float32: [count, width]."""
        tensor = self.tensors[name]
        start = tensor.offset + first * tensor.row_bytes
        raw = self._bytes[name][start : start + count * tensor.row_bytes].reshape(count, tensor.row_bytes)
        kind = PLAIN.get(tensor.type)
        if kind is None:
            return _dequantized(raw, tensor.type)
        return widened(raw.view(kind))


def _dequantized(raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], kind: int) -> Array:
    from gguf import GGMLQuantizationType, quants

    values: Array = quants.dequantize(raw, GGMLQuantizationType(kind))
    return values
