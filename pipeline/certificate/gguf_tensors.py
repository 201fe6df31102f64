"""A GGUF's tensors as numpy arrays, in slabs of rows; llama.cpp reads the headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.certificate.stored import Array, widened
from pipeline.ggml import BF16, F16, F32, Tensor, library, read_tensors
from pipeline.split import shard_paths

PLAIN = {F32: np.float32, F16: np.float16, BF16: np.uint16}
"""The ggml types that are not quantized, and numpy's for them."""


def held(values: Array, kind: int) -> Array:
    """What a tensor of that ggml type holds of the numbers: plain types round them; of others they stay."""
    if kind not in (F16, BF16):
        return values
    values, narrow = np.ascontiguousarray(values), np.empty(values.shape, PLAIN[kind])
    round_row = library().ggml_fp32_to_fp16_row if kind == F16 else library().ggml_fp32_to_bf16_row
    round_row(values.ctypes.data, narrow.ctypes.data, values.size)
    return widened(narrow)


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
