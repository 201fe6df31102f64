"""How a model's own tensors are stored, and how each ggml type would round them."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufio import shards
from ggufio.blocks import Blocks, blocks_of, error_of
from ggufio.ggml import Floats, GGMLType, dequantize, ggml_type_named
from ggufio.untrusted_reader import TensorInfo, read_header, read_rows
from pipeline.errors import InputError
from pipeline.quantize.rounding import quantize_rows, rounded_rows
from pipeline.sources.model_source import base_source
from pipeline.sources.safetensors_reader import SafetensorsReader

TYPES = (
    *("F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "Q3_K"),
    *("Q2_K", "TQ2_0"),
)
_MAX_NUMBERS = 1 << 19
Codes = NDArray[np.int64]


class Weights:
    """The tensors of a GGUF (of all its files) or of a checkpoint's folder."""

    def __init__(self, path: Path) -> None:
        """Read the headers. Raises InputError, and GgufError for a damaged GGUF."""
        if not path.exists():
            raise InputError(f"{str(path)!r} does not exist: give a .gguf file or a checkpoint's folder")
        self._gguf: dict[str, TensorInfo] = {}
        self._stored: SafetensorsReader | None = None
        if path.is_dir():
            self._stored = SafetensorsReader(base_source(str(path)).weight_files())
        else:
            heads = [read_header(file) for file in shards.files(path)]
            self._gguf = {name: tensor for head in heads for name, tensor in head.tensors.items()}

    @property
    def tensors(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """The type and the shape of each tensor; the last dimension is a row's width."""
        if self._stored is not None:
            return {name: (one.dtype, one.shape) for name, one in self._stored.tensors.items()}
        return {name: (one.dtype.name, one.shape[::-1]) for name, one in self._gguf.items()}

    def types(self) -> list[tuple[str, int, int, float]]:
        """Return each type with its tensors, their numbers, and its bits a number, the most numbers first."""
        counts, numbers = Counter[str](), Counter[str]()
        for kind, shape in self.tensors.values():
            counts[kind] += 1
            numbers[kind] += math.prod(shape)
        return [(kind, counts[kind], total, _bits(kind)) for kind, total in numbers.most_common()]

    def sample(self, name: str) -> Floats:
        """Return evenly spaced rows of a matrix as float32: [rows, width]. Raises InputError."""
        kind, shape = self._matrix(name)
        rows, width = math.prod(shape[:-1]), shape[-1]
        count = min(rows, max(1, _MAX_NUMBERS // width))
        if self._stored is not None:
            return self._stored.sample_rows(name, count)
        data = read_rows(self._gguf[name], (index * rows // count for index in range(count)))
        return dequantize(ggml_type_named(kind), data).reshape(count, width)

    def _matrix(self, name: str) -> tuple[str, tuple[int, ...]]:
        found = self.tensors.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self.tensors, n=3, cutoff=0.3)
            raise InputError(
                f"--tensor {name!r} is not in it: did you mean {', '.join(near or list(self.tensors)[:3])}?"
            )
        if len(found[1]) < 2:
            raise InputError(f"--tensor {name!r} has a single row, which is not quantized: choose a matrix")
        return found


@dataclass(frozen=True)
class RoundingError:
    """A type's error on a tensor, relative to its numbers (RMS), and with the columns' importance as weights.

    `weighted` is the error of ggml's ordinary rounding, `calibrated` of the one that minimizes it.
    """

    kind: GGMLType
    relative: float
    weighted: float | None = None
    calibrated: float | None = None


def measure(rows: Floats, importance: Floats | None = None) -> list[RoundingError]:
    """Round rows [rows, width] to each of TYPES whose blocks fill a row. importance: [width]."""
    found = []
    for name in TYPES:
        kind = ggml_type_named(name)
        if rows.shape[1] % kind.block:
            continue
        after = rounded(rows, kind)
        relative = error_of(rows, after).relative
        if importance is None or not kind.quantized:
            found.append(RoundingError(kind, relative))
            continue
        weights, calibrated = np.sqrt(importance), rounded(rows, kind, importance)
        errors = (error_of(rows * weights, one * weights).relative for one in (after, calibrated))
        found.append(RoundingError(kind, relative, *errors))
    return found


def rounded(rows: Floats, kind: GGMLType, importance: Floats | None = None) -> Floats:
    """Round rows [rows, width] to a type and back."""
    rows = np.ascontiguousarray(rows, np.float32)
    if kind.name == "F32":
        return rows
    return rounded_rows(rows, kind.number, importance)


@dataclass(frozen=True)
class BlockView:
    """One block of a tensor in a type: its numbers, the rounded ones, and its scales, None for other grids.

    `codes` are [numbers], None without a uniform grid.
    """

    kind: GGMLType
    numbers: Floats
    rounded: Floats
    blocks: Blocks | None

    @property
    def codes(self) -> Codes | None:
        """The code of each number: rounded = step * code + minimum."""
        if self.blocks is None:
            return None
        step, low = (np.repeat(one, self.blocks.length) for one in (self.blocks.step, self.blocks.minimum))
        steps = np.where(step == 0, np.float32(1), step)
        codes: Codes = np.rint((self.rounded - low) / steps).astype(np.int64)
        return codes


def block_view(rows: Floats, kind: GGMLType, index: int) -> BlockView:
    """Return block number `index` of rows [rows, width] in a type. Raises InputError for a missing one."""
    width = rows.shape[1]
    if width % kind.block:
        raise InputError(
            f"--type {kind.name} does not fit: its blocks of {kind.block} do not fill rows of {width} numbers"
        )
    blocks = rows.reshape(-1, kind.block)
    if not 0 <= index < len(blocks):
        raise InputError(f"--block {index} is too large: {len(blocks)} blocks are read, from 0 on")
    numbers = np.ascontiguousarray(blocks[index : index + 1])
    data = quantize_rows(numbers, kind.number).tobytes()
    after = dequantize(kind, data)
    return BlockView(kind, numbers.ravel(), after, blocks_of(kind, data))


_FORMATS = {"F32": (8, 23), "F16": (5, 10), "BF16": (8, 7)}  # bits of exponent and fraction


def float_bits(value: float, name: str) -> tuple[str, str, str]:
    """Return the bits of a number in F32, F16 or BF16: sign, exponent, fraction."""
    exponent, fraction = _FORMATS[name]
    if name == "F16":
        pattern = int(np.array(value, np.float16).view(np.uint16))
    else:
        pattern = int(rounded(np.array([[value]], np.float32), ggml_type_named(name)).view(np.uint32)[0, 0])
        pattern >>= 16 if name == "BF16" else 0
    text = f"{pattern:0{1 + exponent + fraction}b}"
    return text[0], text[1 : 1 + exponent], text[1 + exponent :]


def _bits(name: str) -> float:
    return {"F64": 64.0}.get(name) or ggml_type_named(name).bits
