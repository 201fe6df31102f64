"""Explain why a file is worse than its size promises: the tensors' actual types, and how they round."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import BF16, F16, F32, type_name
from ggufio.ggml_reader import GgufTensors, TensorLocation
from pipeline.certificate.scoring.samples import sample_evenly
from pipeline.certificate.subject import Subject
from pipeline.sources.model_source import Source
from pipeline.sources.safetensors_reader import SafetensorsReader

_SUPER_BLOCK = 256  # weights in a block of K types (and IQ4_XS)
_BLOCK = 32
_MAX_ROWS = 64  # sampled of a tensor
_MAX_TENSORS = 4  # sampled of a file
_MIN_GAIN = 0.005  # ten times that of Q5_0
Rows = NDArray[np.float64]
"""Some rows of a tensor: [rows, width]."""


@dataclass(frozen=True)
class QuantDiagnosis:
    """How a file's matrices were rounded.

    `fallbacks` counts, by type, the matrices whose rows of `width` weights are no multiple of a K type's
    block. `gain` is the factor by which their rounded weights are larger than the true ones, less 1: the
    systematic part of the error.
    """

    matrices: int
    fallbacks: dict[str, int]
    width: int
    gain: float

    def explain(self, levels: int) -> str:
        """Return the cause in plain sentences, or an empty text; `levels` is from `distinct_levels`."""
        if not self.fallbacks:
            return ""
        dtype, count = max(self.fallbacks.items(), key=lambda item: item[1])
        text = (
            f"{sum(self.fallbacks.values())} of {self.matrices} matrices have rows of {self.width} numbers, "
            f"no multiple of {_SUPER_BLOCK}, so llama.cpp gave them older types ({count} have {dtype}). "
        )
        if self.gain > _MIN_GAIN:
            text += (
                f"That rounding is no noise: it makes the weights {self.gain:.1%} larger throughout, and "
                "every layer adds to it. "
            )
            if levels <= 16:
                text += (
                    f"The base's weights had been rounded to {levels} levels a block before, and {dtype} "
                    "rounds them to a finer grid that those levels do not fall on. "
                )
        return text


def diagnose_quantization(quantized: Path, full: Path) -> QuantDiagnosis:
    """Compare a sample of a quantized file's matrices with the full-precision ones."""
    rounded, true = GgufTensors(quantized), GgufTensors(full)
    matrices = [t for t in rounded.tensors.values() if t.rows > 1 and t.type not in (F32, F16, BF16)]
    odd = [t for t in matrices if t.width % _SUPER_BLOCK and t.name in true.tensors]
    dtypes = Counter(type_name(t.type) for t in odd)
    widths = Counter(t.width for t in odd)
    commonest = max(dtypes, key=lambda dtype: dtypes[dtype], default="")
    sample = sample_evenly([t for t in odd if type_name(t.type) == commonest], _MAX_TENSORS)
    gains = [_gain(_rows(rounded, t), _rows(true, t)) for t in sample]
    width = widths.most_common(1)[0][0] if widths else 0
    return QuantDiagnosis(len(matrices), dict(dtypes), width, float(np.mean(gains)) if gains else 0.0)


def distinct_levels(subject: Subject) -> int:
    """Return the largest number of distinct values in a block of 32 weights of the base.

    16 or fewer when the base was 4-bit before. Without a base the full-precision file is sampled instead.
    """
    samples = _sample_gguf(subject.full) if subject.base is None else _sample_checkpoint(subject.base)
    counts = [_count_distinct(rows.reshape(-1, _BLOCK)) for rows in samples]
    return max(counts, default=_BLOCK)


def _sample_gguf(full: Path) -> list[Rows]:
    file = GgufTensors(full)
    tensors = [t for t in file.tensors.values() if t.name.startswith("blk.")]
    usable = [t for t in tensors if t.rows >= _BLOCK and t.width % _BLOCK == 0]
    return [_rows(file, t) for t in sample_evenly(usable, _MAX_TENSORS)]


def _sample_checkpoint(base: Source) -> list[Rows]:
    stored = SafetensorsReader(base.weight_files())
    layers = {name: tensor.shape for name, tensor in stored.tensors.items() if re.search(r"\.\d+\.", name)}
    usable = [n for n, s in layers.items() if len(s) == 2 and s[0] >= _BLOCK and s[1] % _BLOCK == 0]
    return [stored.read(name)[:_MAX_ROWS].astype(np.float64) for name in sample_evenly(usable, _MAX_TENSORS)]


def _count_distinct(blocks: Rows) -> int:
    """Return the largest number of distinct values in a row: [blocks, values]."""
    ordered = np.sort(blocks, axis=1)
    return 1 + int((np.diff(ordered, axis=1) != 0).sum(axis=1).max())


def _gain(rounded: Rows, true: Rows) -> float:
    return float((rounded * true).sum() / (true * true).sum()) - 1


def _rows(file: GgufTensors, tensor: TensorLocation) -> Rows:
    """Return the first rows of a tensor, dequantized: [rows, width]."""
    return file.read(tensor.name, 0, min(_MAX_ROWS, tensor.rows)).astype(np.float64)
