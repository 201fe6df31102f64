"""The data of the Inspect view: a file's contents, and the error of each type on one of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ggufio import shards
from ggufio.blocks import RoundTrip, Sample, error_of, is_symmetric, round_trip, sample
from ggufio.errors import GgufError
from ggufio.ggml import Floats, GGMLType
from ggufio.reader import GgufHeader, TensorInfo, read_header
from ui.models.files import name_and_type

TYPES = ("Q4_0", "Q8_0", "Q4_1", "Q5_1", "Q4_K", "Q6_K")  # symmetric ones first, K-quants last
UNROUNDED = ("F32", "BF16", "F16")
_BINS = 64
_TAIL = 0.5  # percent that the histogram omits at each end, so that one outlier cannot flatten it


@dataclass(frozen=True)
class TypeSum:
    """The tensors of one type: their count, their elements and their bytes."""

    kind: GGMLType
    tensors: int
    numbers: int
    size: int
    symmetric: bool | None


@dataclass(frozen=True)
class Look:
    """A tensor and its round trips through some types.

    `before` are its values from the full-precision file `reference`, or its own if that is "". `after` maps
    each type to its round trip, None if the row is no multiple of its block; the file's own type comes first
    when there is a reference.
    """

    tensor: TensorInfo
    reference: str
    before: Sample
    after: Mapping[str, RoundTrip | None]


def contents(path: Path) -> GgufHeader:
    """Return the header of a model, merged from all its files. Raises GgufError."""
    files = shards.files(path)
    try:
        return _contents(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    except OSError as error:
        raise GgufError(f"{path.name} cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=8)  # parsing a large vocabulary takes a good part of a second
def _contents(files: tuple[tuple[Path, int, int], ...]) -> GgufHeader:
    heads = [read_header(path) for path, _, _ in files]
    tensors = {name: tensor for head in heads for name, tensor in head.tensors.items()}
    return GgufHeader(heads[0].path, heads[0].metadata, tensors)


def type_sums(found: GgufHeader) -> list[TypeSum]:
    """Sum up the tensors by type, the type with most bytes first."""
    counts, numbers, sizes = Counter[GGMLType](), Counter[GGMLType](), Counter[GGMLType]()
    for tensor in found.tensors.values():
        counts[tensor.kind] += 1
        numbers[tensor.kind] += tensor.rows * tensor.width
        sizes[tensor.kind] += tensor.size
    return [
        TypeSum(kind, counts[kind], numbers[kind], size, is_symmetric(kind))
        for kind, size in sizes.most_common()
    ]


def look(path: Path, name: str) -> Look:
    """Sample a tensor and round it to each of TYPES. Raises GgufError, also for an unknown name."""
    own = contents(path).tensors.get(name)
    if own is None:
        raise GgufError(f"{path.name} has no tensor {name[:80]!r}: choose one of the list")
    best = _unrounded(path, own)
    before = sample(best or own)
    after: dict[str, RoundTrip | None] = {}
    if best is not None:
        now = sample(own)
        after[own.kind.name] = RoundTrip(
            own.kind, now.values, now.blocks, error_of(before.values, now.values)
        )
    after |= {kind: round_trip(before.values, kind) for kind in TYPES if kind not in after}
    return Look(own, best.path.name if best else "", before, after)


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
    if beside is None or own.kind.name in UNROUNDED:
        return None
    try:
        best = contents(beside).tensors.get(own.name)
    except GgufError:  # a broken file, or half a download
        return None
    fits = best is not None and best.shape == own.shape and best.kind.name in UNROUNDED
    return best if fits else None


def histogram(before: Floats, after: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the centers of equal bins, and the percentages in them before and after; (_BINS,) each."""
    low, high = np.percentile(before, [_TAIL, 100 - _TAIL])
    if low == high:
        low, high = low - 1, high + 1
    edges = np.linspace(low, high, _BINS + 1)
    shares = [np.histogram(values, edges)[0] * (100 / values.size) for values in (before, after)]
    middles = (edges[:-1] + edges[1:]) / 2
    return middles.astype(np.float32), shares[0].astype(np.float32), shares[1].astype(np.float32)
