"""Why a file is worse than its size promises: which types its tensors really have, and how they round."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufio.file import GgufTensors, TensorLocation
from ggufio.ggml import BF16, F16, F32, type_name
from pipeline.certificate.scoring.samples import sample_evenly
from pipeline.certificate.subject import Subject
from pipeline.certificate.tensors.expected import SafetensorsReader
from pipeline.sources.model_source import Source

_SUPER_BLOCK = 256  # K types (and IQ4_XS) are made of blocks so wide
_BLOCK = 32
_ROWS = 64  # of a tensor are looked at
_TENSORS = 4  # of a file are looked at
_TELLING_GAIN = 0.005  # ten times what Q5_0 shows
Rows = NDArray[np.float64]
"""Some rows of a tensor: [rows, width]."""


@dataclass(frozen=True)
class QuantDiagnosis:
    """How a file's matrices were rounded.

    `fallbacks` counts, by type, those whose rows of `width` numbers no K type can hold. `gain` is the factor
    by which the rounded weights of `fallbacks` are larger than the true ones, less 1: the part of the error
    that is no noise.
    """

    matrices: int
    fallbacks: dict[str, int]
    width: int
    gain: float

    def explain(self, levels: int) -> str:
        """The known cause that fits, in plain sentences; `levels` are those of the base's own weights."""
        if not self.fallbacks:
            return ""
        kind, count = max(self.fallbacks.items(), key=lambda item: item[1])
        text = (
            f"{sum(self.fallbacks.values())} of {self.matrices} matrices have rows of {self.width} numbers, "
            f"no multiple of {_SUPER_BLOCK}, so llama.cpp gave them older types ({count} have {kind}). "
        )
        if self.gain > _TELLING_GAIN:
            text += (
                f"That rounding is no noise: it makes the weights {self.gain:.1%} larger throughout, and "
                "every layer adds to it. "
            )
            if levels <= 16:
                text += (
                    f"The base's weights had been rounded to {levels} levels a block before, and {kind} "
                    "rounds them to a finer grid that those levels do not fall on. "
                )
        return text


def diagnose_quantization(quantized: Path, full: Path) -> QuantDiagnosis:
    """Compare the matrices of a quantized file with those of the full one, some rows of a few of them."""
    rounded, true = GgufTensors(quantized), GgufTensors(full)
    matrices = [t for t in rounded.tensors.values() if t.rows > 1 and t.type not in (F32, F16, BF16)]
    odd = [t for t in matrices if t.width % _SUPER_BLOCK and t.name in true.tensors]
    kinds = Counter(type_name(t.type) for t in odd)
    widths = Counter(t.width for t in odd)
    largest = max(kinds, key=lambda kind: kinds[kind], default="")
    sample = sample_evenly([t for t in odd if type_name(t.type) == largest], _TENSORS)
    gains = [_gain(_rows(rounded, t), _rows(true, t)) for t in sample]
    width = widths.most_common(1)[0][0] if widths else 0
    return QuantDiagnosis(len(matrices), dict(kinds), width, float(np.mean(gains)) if gains else 0.0)


def distinct_levels(subject: Subject) -> int:
    """How many values a block of 32 weights has at most that the tuning began with.

    16 or fewer when the base's were 4-bit before. Without a base it is the file of full precision that is
    looked at.
    """
    samples = _of_gguf(subject.full) if subject.base is None else _of_checkpoint(subject.base)
    counts = [_distinct(rows.reshape(-1, _BLOCK)) for rows in samples]
    return max(counts, default=_BLOCK)


def _of_gguf(full: Path) -> list[Rows]:
    file = GgufTensors(full)
    tensors = [t for t in file.tensors.values() if t.name.startswith("blk.")]
    usable = [t for t in tensors if t.rows >= _BLOCK and t.width % _BLOCK == 0]
    return [_rows(file, t) for t in sample_evenly(usable, _TENSORS)]


def _of_checkpoint(base: Source) -> list[Rows]:
    stored = SafetensorsReader(base.weight_files())
    layers = {name: entry.shape for name, entry in stored.entries.items() if re.search(r"\.\d+\.", name)}
    usable = [n for n, s in layers.items() if len(s) == 2 and s[0] >= _BLOCK and s[1] % _BLOCK == 0]
    return [stored.read(name)[:_ROWS].astype(np.float64) for name in sample_evenly(usable, _TENSORS)]


def _distinct(blocks: Rows) -> int:
    ordered = np.sort(blocks, axis=1)
    return 1 + int((np.diff(ordered, axis=1) != 0).sum(axis=1).max())


def _gain(rounded: Rows, true: Rows) -> float:
    return float((rounded * true).sum() / (true * true).sum()) - 1


def _rows(file: GgufTensors, tensor: TensorLocation) -> Rows:
    """The first rows of a tensor as numbers: [rows, width]."""
    return file.read(tensor.name, 0, min(_ROWS, tensor.rows)).astype(np.float64)
