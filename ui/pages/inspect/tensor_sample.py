"""Reads files for the Inspect view: their contents, and the error of each type on one tensor.

It runs in the worker process, as it reads strangers' files and converts their numbers by ggml.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np

from ggufio import shards
from ggufio.blocks import Blocks, RoundTrip, error_of, is_symmetric, round_trip, sample
from ggufio.errors import GgufError
from ggufio.ggml import Floats, GGMLType, ggml_type_named
from ggufio.untrusted_reader import ArraySummary, GgufHeader, Scalar, TensorInfo, read_header
from ui.models.files import name_and_type
from ui.pages.inspect.contents import (
    Array,
    Block,
    BlockFigures,
    Contents,
    Curve,
    Range,
    Rounded,
    Rounding,
    Tensor,
    TensorFigures,
    TypeSum,
)

TYPES = ("Q4_0", "Q8_0", "Q4_1", "Q5_1", "Q4_K", "Q6_K")  # symmetric ones first, K-quants last
UNROUNDED = ("F32", "BF16", "F16")
_MAX_CHARACTERS = 200  # of a value; the view shows fewer
_VALUE_BINS, _BLOCK_BINS = 64, 40
_TAIL = 0.5  # percent that the histogram omits at each end, so that one outlier cannot flatten it
_FIRST_BLOCKS = 10


def read_contents(path: Path) -> Contents:
    """Return the contents of a model, merged from all its files. Raises GgufError."""
    header = _header(path)
    metadata = {key[:_MAX_CHARACTERS]: _shown(value) for key, value in header.metadata.items()}
    return Contents(metadata, [_tensor(one) for one in header.tensors.values()], _type_sums(header))


def measure_tensor(path: Path, name: str) -> TensorFigures:
    """Sample a tensor and round it to each of TYPES. Raises GgufError, also for an unknown name."""
    own = _header(path).tensors.get(name)
    if own is None:
        raise GgufError(f"{path.name} has no tensor {name[:80]!r}: choose one of the list")
    best = _unrounded(path, own)
    before = sample(best or own)
    after: dict[str, RoundTrip | None] = {}
    if best is not None:
        now = sample(own)
        error = error_of(before.values, now.values)
        after[own.dtype.name] = RoundTrip(own.dtype, now.values, now.blocks, error)
    after |= {kind: round_trip(before.values, kind) for kind in TYPES if kind not in after}
    edges = _edges(before.values)
    return TensorFigures(
        _tensor(own),
        best.path.name if best else "",
        len(before.values),
        before.of_rows,
        float(before.values.min()),
        float(before.values.max()),
        Curve(((edges[:-1] + edges[1:]) / 2).tolist(), _shares(before.values, edges)),
        [_rounding(kind, before.values, result, edges) for kind, result in after.items()],
    )


def _header(path: Path) -> GgufHeader:
    files = shards.files(path)
    try:
        return _merged_header(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    except OSError as error:
        raise GgufError(f"{path.name} cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=4)  # parsing a large vocabulary takes a good part of a second
def _merged_header(files: tuple[tuple[Path, int, int], ...]) -> GgufHeader:
    heads = [read_header(path) for path, _, _ in files]
    tensors = {name: tensor for head in heads for name, tensor in head.tensors.items()}
    return GgufHeader(heads[0].path, heads[0].metadata, tensors)


def _shown(value: Scalar | ArraySummary) -> str | Array:
    if isinstance(value, ArraySummary):
        return Array(value.count, [str(one)[:_MAX_CHARACTERS] for one in value.first])
    return str(value)[:_MAX_CHARACTERS]


def _tensor(found: TensorInfo) -> Tensor:
    return Tensor(found.name, found.dtype.name, found.shape, found.size)


def _type_sums(header: GgufHeader) -> list[TypeSum]:
    counts, numbers, sizes = Counter[GGMLType](), Counter[GGMLType](), Counter[GGMLType]()
    for tensor in header.tensors.values():
        counts[tensor.dtype] += 1
        numbers[tensor.dtype] += tensor.rows * tensor.width
        sizes[tensor.dtype] += tensor.size
    return [
        TypeSum(kind.name, kind.bits, is_symmetric(kind), counts[kind], numbers[kind], size)
        for kind, size in sizes.most_common()
    ]


def unrounded_beside(path: Path) -> Path | None:
    """Return the file of the same name in full precision in the same folder, if any."""
    stem, kind = name_and_type(path)
    if kind in UNROUNDED:
        return None
    found = {name_and_type(file): file for file in sorted(path.parent.glob("*.gguf"))}
    return next((found[stem, best] for best in UNROUNDED if (stem, best) in found), None)


def _unrounded(path: Path, own: TensorInfo) -> TensorInfo | None:
    """Return the tensor in full precision; None when no other file has it, or `own` is unrounded."""
    beside = unrounded_beside(path)
    if beside is None or own.dtype.name in UNROUNDED:
        return None
    try:
        best = _header(beside).tensors.get(own.name)
    except GgufError:  # a broken file, or half a download
        return None
    fits = best is not None and best.shape == own.shape and best.dtype.name in UNROUNDED
    return best if fits else None


def _edges(values: Floats) -> Floats:
    """Return the edges of equal bins over nearly all values: (_VALUE_BINS + 1,)."""
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
    if low == high:
        low, high = low - 1, high + 1
    return np.linspace(low, high, _VALUE_BINS + 1, dtype=np.float64).astype(np.float32)


def _shares(values: Floats, edges: Floats) -> list[float]:
    shares: list[float] = (np.histogram(values, edges)[0] * (100 / values.size)).tolist()
    return shares


def _rounding(kind: str, before: Floats, found: RoundTrip | None, edges: Floats) -> Rounding:
    dtype = ggml_type_named(kind)
    result = None
    if found is not None:
        error = found.error
        rms, relative, worst = (_finite(one) for one in (error.rms, error.relative, error.worst))
        blocks = None if found.blocks is None else _block_figures(found.blocks, before, found.values)
        result = Rounded(rms, relative, worst, blocks, _shares(found.values, edges))
    return Rounding(kind, dtype.bits, is_symmetric(dtype), result)


def _block_figures(blocks: Blocks, before: Floats, after: Floats) -> BlockFigures:
    zeros = blocks.zero_point
    scales = (one[:_FIRST_BLOCKS].tolist() for one in (blocks.step, blocks.minimum, zeros))
    numbers = (one.reshape(-1, blocks.length)[:_FIRST_BLOCKS].tolist() for one in (before, after))
    first = [
        Block(was, now, *(_finite(value) for value in scale))
        for was, now, *scale in zip(*numbers, *scales, strict=True)
    ]
    steps = np.abs(blocks.step)
    return BlockFigures(
        blocks.symmetric,
        blocks.codes,
        first,
        _range(steps),
        None if blocks.symmetric else _range(zeros),
        _curve(steps),
        None if blocks.symmetric else _curve(zeros),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _range(values: Floats) -> Range | None:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, [5, 95])
    return float(low), float(high)


def _curve(values: Floats) -> Curve | None:
    """Return the distribution of values between their 1st and 99th percentiles; None when all are equal."""
    finite = values[np.isfinite(values)]
    if not finite.size or np.ptp(finite) == 0:
        return None
    low, high = np.percentile(finite, [1, 99])
    counts, edges = np.histogram(finite, _BLOCK_BINS, (float(low), float(high)))
    return Curve(((edges[:-1] + edges[1:]) / 2).tolist(), (counts * (100 / finite.size)).tolist())
