"""Why a file is worse than its size promises: which types its tensors really have, and how they round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ggml import BF16, F16, F32, Tensor, read_tensors

_SUPER_BLOCK = 256  # K types (and IQ4_XS) are made of blocks so wide
_BLOCK = 32
_ROWS = 64  # of a tensor are looked at
_TENSORS = 4  # of a file are looked at
_TELLING_GAIN = 0.005  # ten times what Q5_0 shows


@dataclass(frozen=True)
class Rounding:
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


def rounding_of(quantized: Path, full: Path) -> Rounding:
    """Compare the matrices of a quantized file with those of the full one, some rows of a few of them."""
    rounded, true = read_tensors(quantized), read_tensors(full)
    matrices = [t for t in rounded.values() if t.rows > 1 and t.type not in (F32, F16, BF16)]
    odd = [t for t in matrices if t.width % _SUPER_BLOCK and t.name in true]
    kinds = Counter(_name(t.type) for t in odd)
    widths = Counter(t.width for t in odd)
    largest = max(kinds, key=lambda kind: kinds[kind], default="")
    sample = _spread([t for t in odd if _name(t.type) == largest])
    gains = [_gain(_rows(quantized, t), _rows(full, true[t.name])) for t in sample]
    width = widths.most_common(1)[0][0] if widths else 0
    return Rounding(len(matrices), dict(kinds), width, float(np.mean(gains)) if gains else 0.0)


def levels_of(full: Path) -> int:
    """How many values a block of 32 weights has at most: 16 or fewer when they were 4-bit before."""
    tensors = [t for t in read_tensors(full).values() if t.name.startswith("blk.") and t.rows >= _BLOCK]
    usable = [t for t in tensors if t.width % _BLOCK == 0]
    counts = [_distinct(_rows(full, t).reshape(-1, _BLOCK)) for t in _spread(usable)]
    return max(counts, default=_BLOCK)


def _distinct(blocks: NDArray[np.float64]) -> int:
    ordered = np.sort(blocks, axis=1)
    return 1 + int((np.diff(ordered, axis=1) != 0).sum(axis=1).max())


def _gain(rounded: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    return float((rounded * true).sum() / (true * true).sum()) - 1


def _spread(tensors: Sequence[Tensor]) -> list[Tensor]:
    count = min(_TENSORS, len(tensors))
    return [tensors[index * len(tensors) // count] for index in range(count)]


def _rows(path: Path, tensor: Tensor) -> NDArray[np.float64]:
    """The first rows of a tensor as numbers: [rows, width]."""
    from gguf import GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType(tensor.type)
    rows = min(_ROWS, tensor.rows)
    raw = np.fromfile(path, np.uint8, rows * tensor.row_bytes, offset=tensor.offset)
    numbers: Any = dequantize(_typed(raw, tensor.type), kind)
    return np.asarray(numbers, np.float64).reshape(rows, tensor.width)


def _typed(raw: NDArray[np.uint8], kind: int) -> NDArray[Any]:
    return raw.view({F32: np.float32, F16: np.float16}.get(kind, np.uint8))


def _name(kind: int) -> str:
    from gguf import GGMLQuantizationType

    return str(GGMLQuantizationType(kind).name)
