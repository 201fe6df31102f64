"""A GGUF's tensors as numpy arrays, in slabs of rows; llama.cpp reads the header."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.certificate.stored import Array, from_bf16
from pipeline.ggml import BF16, F16, F32, Tensor, read_tensors

_PLAIN = {F32: np.float32, F16: np.float16, BF16: np.uint16}


class GgufTensors:
    """The tensors of a GGUF file by name."""

    def __init__(self, path: Path) -> None:
        """Raises PipelineError when it is no whole GGUF file."""
        self.tensors: dict[str, Tensor] = read_tensors(path)
        self._path = path

    def read(self, name: str, first: int, count: int) -> Array:
        """`count` rows of a tensor from `first` on, in float32: [count, width]."""
        tensor = self.tensors[name]
        raw = np.memmap(
            self._path, np.uint8, "r", tensor.offset + first * tensor.row_bytes, (count, tensor.row_bytes)
        )
        kind = _PLAIN.get(tensor.type)
        if kind is None:
            return _dequantized(raw, tensor.type)
        values = raw.view(kind)
        return from_bf16(values) if tensor.type == BF16 else values.astype(np.float32)


def _dequantized(raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], kind: int) -> Array:
    from gguf import GGMLQuantizationType, quants

    values: Array = quants.dequantize(raw, GGMLQuantizationType(kind))
    return values
