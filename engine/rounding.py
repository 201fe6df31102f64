"""What a number type does to a tensor: some of its rows, rounded by ggml and turned back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.blocks import Blocks, blocks_of
from engine.errors import ModelError
from engine.ggml import Floats, NumberType, quantized, to_floats, type_named
from engine.gguf_file import Tensor, read_rows

MOST_NUMBERS = 1 << 19  # half a million tell the same as all, in a tenth of a second for each type


@dataclass(frozen=True)
class Sample:
    """Some rows of a tensor as plain numbers, (rows, width), and their blocks where its type has any."""

    values: Floats
    blocks: Blocks | None
    of_rows: int

    @property
    def whole(self) -> bool:
        """Whether these are all rows."""
        return len(self.values) == self.of_rows


@dataclass(frozen=True)
class Error:
    """How far numbers moved: root mean square, that over the numbers' own, and the worst."""

    rms: float
    relative: float
    worst: float


@dataclass(frozen=True)
class Rounded:
    """A sample rounded to a type and back."""

    kind: NumberType
    values: Floats
    blocks: Blocks | None
    error: Error


def sample(tensor: Tensor, most: int = MOST_NUMBERS) -> Sample:
    """Rows of a tensor, evenly spaced, so that about `most` numbers are read. Raises ModelError.

    Tensors of one shape give the same rows, whatever their types.
    """
    if not tensor.kind.readable or not tensor.width or not tensor.rows:
        raise ModelError(f"tensor {tensor.name!r} has no numbers to show (its type is {tensor.kind.name})")
    if tensor.width > 4 * most:
        raise ModelError(f"tensor {tensor.name!r} has rows of {tensor.width} numbers: too long to show")
    count = min(tensor.rows, max(1, most // tensor.width))
    data = read_rows(tensor, (index * tensor.rows // count for index in range(count)))
    values = to_floats(tensor.kind, data).reshape(count, tensor.width)
    if not np.isfinite(values).all():
        raise ModelError(f"tensor {tensor.name!r} holds numbers that are not finite: export it again")
    return Sample(values, blocks_of(tensor.kind, data), tensor.rows)


def rounded(values: Floats, name: str) -> Rounded | None:
    """Rows rounded to the type of a name; None when its blocks do not fill a row."""
    kind = type_named(name)
    if values.shape[1] % kind.block:
        return None
    data = quantized(kind, values)
    after = to_floats(kind, data).reshape(values.shape)
    return Rounded(kind, after, blocks_of(kind, data), error_of(values, after))


def error_of(before: Floats, after: Floats) -> Error:
    """The error of numbers of the same shape. `relative` is NaN when all numbers are 0."""
    moved = after.astype(np.float64) - before
    size = _rms(before.astype(np.float64))
    return Error(_rms(moved), _rms(moved) / size if size else float("nan"), float(np.abs(moved).max()))


def _rms(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(np.sqrt(np.square(values).mean()))
