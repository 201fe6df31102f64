"""Rounding rows to a type: the CPU time of our kernels and of ggml's, and whether the bytes agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ggufio.ggml import Floats, library
from pipeline.quantize.k_quants import exact_quantizer, exact_weighted_quantizer, kernel_types

WIDTHS = {"llama-1b": 2048, "phi-3.5-mini": 3072}
"""The rows of most matrices of a shape."""

_ROWS, _RUNS = 512, 5


@dataclass(frozen=True)
class RoundingTime:
    """Median CPU seconds for 100 million weights, and their relative spread; `same` means equal bytes."""

    type: str
    weighted: bool
    ours: float
    ggml: float
    spread: float
    same: bool

    @property
    def ratio(self) -> float:
        """Ours over ggml's."""
        return self.ours / self.ggml


def compare_rounding(width: int, types: Sequence[str] = ()) -> list[RoundingTime]:
    """Measure each type that has a kernel here, without and with an importance matrix."""
    random = np.random.default_rng(0)
    x = (random.standard_normal((_ROWS, width)) * 0.02).astype(np.float32)
    importance = np.exp(random.standard_normal(width)).astype(np.float32)
    return [
        _compare(name, number, x, importance if weighted else None)
        for weighted in (False, True)
        for name, number in kernel_types(weighted=weighted).items()
        if not types or name in types
    ]


def _compare(name: str, number: int, x: Floats, importance: Floats | None) -> RoundingTime:
    plain, weighted = exact_quantizer(number), exact_weighted_quantizer(number)
    out = np.empty(len(x) * library().ggml_row_size(number, x.shape[1]), np.uint8)
    weights = None if importance is None else importance.ctypes.data

    def ours() -> bytes:
        if importance is None:
            assert plain is not None, name
            return plain(x).tobytes()
        assert weighted is not None, name
        return weighted(x, importance).tobytes()

    def ggml() -> bytes:
        library().ggml_quantize_chunk(number, x.ctypes.data, out.ctypes.data, 0, *x.shape, weights)
        return out.tobytes()

    same = ours() == ggml()  # also compiles the kernel
    runs = [(_seconds(ours), _seconds(ggml)) for _ in range(_RUNS)]
    mine, theirs = zip(*runs, strict=True)
    spread = (max(mine) - min(mine)) / statistics.median(mine)
    factor = 1e8 / x.size
    medians = statistics.median(mine) * factor, statistics.median(theirs) * factor
    return RoundingTime(name, importance is not None, *medians, spread, same)


def _seconds(work: Callable[[], bytes]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
