"""What the Inspect view shows of a file: messages from the worker process that reads it.

Values that are not finite are None.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Array:
    """An array of the metadata: its length and its first values as text."""

    count: int
    first: list[str]


@dataclass(frozen=True)
class Tensor:
    """A tensor: its number type, its shape with the width of a row first, and its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class TypeSum:
    """The tensors of one type: bits per number, their count, their elements and their bytes.

    `symmetric` is None for a type without a uniform grid.
    """

    type: str
    bits: float
    symmetric: bool | None
    tensors: int
    numbers: int
    size: int


@dataclass(frozen=True)
class Contents:
    """A file's metadata and tensors in its own order, and the sums by type, most bytes first."""

    metadata: dict[str, str | Array]
    tensors: list[Tensor]
    types: list[TypeSum]


@dataclass(frozen=True)
class Curve:
    """A distribution: the centers of equal bins and their percentages."""

    x: list[float]
    y: list[float]


Range = tuple[float, float]
"""The 5th and the 95th percentile."""


@dataclass(frozen=True)
class Block:
    """A block: its numbers before and after rounding, its step, its minimum and its zero point."""

    before: list[float]
    after: list[float]
    step: float | None
    minimum: float | None
    zero: float | None


@dataclass(frozen=True)
class BlockFigures:
    """The blocks of a rounded tensor, with `codes` levels each: the first ones, and sums of all."""

    symmetric: bool
    codes: int
    first: list[Block]
    steps: Range | None
    zeros: Range | None
    step_curve: Curve | None
    zero_curve: Curve | None


@dataclass(frozen=True)
class Rounded:
    """A sample rounded to a type and back: its errors (see ggufio.blocks.Error) and its values' histogram."""

    rms: float | None
    relative: float | None
    worst: float | None
    blocks: BlockFigures | None
    histogram: list[float]


@dataclass(frozen=True)
class Rounding:
    """A type to round to; `result` is None if the row is no multiple of its block."""

    type: str
    bits: float
    symmetric: bool | None
    result: Rounded | None


@dataclass(frozen=True)
class TensorFigures:
    """A sample of a tensor and its round trips through some types.

    The values come from the full-precision file `reference`, or from the file itself if that is "". With a
    reference, the file's own type is the first of the roundings. `low` and `high` are the sample's extremes.
    """

    tensor: Tensor
    reference: str
    rows: int
    of_rows: int
    low: float
    high: float
    histogram: Curve
    roundings: list[Rounding]
