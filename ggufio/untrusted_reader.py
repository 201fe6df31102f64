"""What is in a GGUF file, read by the format's specification (docs/gguf.md of ggml) and nothing loaded.

The file may be a stranger's: each length that it claims is held against the bytes that are left, and data is
read rather than mapped, so that a file that shrinks meanwhile is an error and no signal.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggufio.errors import GgufError
from ggufio.ggml import GGMLType, ggml_type

_STRING, _ARRAY = 8, 9  # of enum gguf_metadata_value_type
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KEPT_TEXT = 1 << 16  # bytes of a string; a chat template may be long
_KEPT_VALUES = 6  # of an array; a vocabulary is longer than anyone reads
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_MOST_ENTRIES = 1 << 13  # of metadata, and of tensors; the largest models have some thousand
_MOST_VALUES = 1 << 23  # of an array of texts, which have to be walked through; vocabularies have 256 k
Scalar = str | int | float | bool


@dataclass(frozen=True)
class ArraySummary:
    """An array of the metadata: how many values, and the first of them."""

    count: int
    first: tuple[Scalar, ...]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: `shape` with the width of a row first, as in the file, and where its data begins."""

    name: str
    dtype: GGMLType
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.shape[0]

    @property
    def rows(self) -> int:
        """How many rows, over all other dimensions."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """The size of a row."""
        return self.width // self.dtype.block * self.dtype.size

    @property
    def size(self) -> int:
        """The size of all rows in bytes."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class GgufHeader:
    """The head of a GGUF file. `metadata` and `tensors` are in the file's order."""

    path: Path
    metadata: dict[str, Scalar | ArraySummary]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GgufHeader:
    """Read the head of a file. Raises GgufError, which names what is wrong with it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(path, _Source(file, size, path.name))
    except OSError as error:
        raise GgufError(f"{path.name} cannot be read: {error.strerror or error}") from error


def is_adapter(path: Path) -> bool:
    """Whether it is the GGUF of a LoRA adapter; of what cannot be read others tell more."""
    try:
        return read_header(path).metadata.get("general.type") == "adapter"
    except GgufError:
        return False


def read_rows(tensor: TensorInfo, rows: Iterable[int]) -> bytes:
    """The data of some rows. Raises GgufError when the file does not hold them any more."""
    data = bytearray()
    try:
        with tensor.path.open("rb") as file:
            for row in rows:
                file.seek(tensor.offset + row * tensor.row_bytes)
                data += _all_of(file.read(tensor.row_bytes), tensor.row_bytes, tensor.path.name)
    except OSError as error:
        raise GgufError(f"{tensor.path.name} cannot be read: {error.strerror or error}") from error
    return bytes(data)


def _all_of(data: bytes, count: int, name: str) -> bytes:
    if len(data) < count:
        raise GgufError(f"{name} was changed while it was read: open it again")
    return data


class _Source:
    """A file read from its beginning to its end, never beyond it."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self.size, self.place, self._name = file, size, 0, name

    def wrong(self, what: str) -> GgufError:
        """The error to raise."""
        return GgufError(f"{self._name} is damaged: {what}; download or export it again")

    def take(self, count: int) -> bytes:
        self._check(count)
        return _all_of(self._file.read(count), count, self._name)

    def skip(self, count: int) -> None:
        self._check(count)
        self._file.seek(count, 1)

    def count(self, smallest: int, most: int | None = None) -> int:
        """A number of things of which each takes at least `smallest` bytes."""
        found = int(self.number("Q"))
        if found * smallest > self.size - self.place or (most is not None and found > most):
            raise self.wrong(f"it claims {found} entries at byte {self.place}, more than there can be")
        return found

    def number(self, form: str) -> int | float | bool:
        found: int | float | bool = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]
        return found

    def text(self, kept: int = _KEPT_TEXT) -> str:
        length = self.count(1)
        text = self.take(min(length, kept)).decode("utf-8", "replace")
        self.skip(length - min(length, kept))
        return text

    def _check(self, count: int) -> None:
        if count > self.size - self.place:
            raise self.wrong(f"it ends at byte {self.size}, within its head")
        self.place += count


def _read(path: Path, source: _Source) -> GgufHeader:
    if source.take(4) != b"GGUF":
        raise GgufError(f"{path.name} is not a GGUF file")
    version = source.number("I")
    if version not in (2, 3):
        raise source.wrong(f"its version is {version}, and 2 and 3 are known")
    tensors, entries = source.count(32, _MOST_ENTRIES), source.count(13, _MOST_ENTRIES)
    metadata = {}
    for _ in range(entries):
        key = source.text()
        metadata[key] = _value(source, int(source.number("I")))
    listed = [_listed(source) for _ in range(tensors)]
    step = _alignment(metadata, source)
    data = -(-source.place // step) * step
    found = {name: TensorInfo(name, kind, shape, path, data + place) for name, kind, shape, place in listed}
    for tensor in found.values():
        _check_place(tensor, source)
    return GgufHeader(path, metadata, found)


def _value(source: _Source, kind: int) -> Scalar | ArraySummary:
    if kind == _ARRAY:
        return _array(source)
    return _scalar(source, kind)


def _scalar(source: _Source, kind: int, kept: int = _KEPT_TEXT) -> Scalar:
    if kind == _STRING:
        return source.text(kept)
    if kind not in _FORMATS:
        raise source.wrong(f"its metadata has a value of the unknown type {kind}")
    return source.number(_FORMATS[kind])


def _array(source: _Source) -> ArraySummary:
    kind = int(source.number("I"))
    smallest = struct.calcsize(f"<{_FORMATS.get(kind, 'Q')}")  # a string has its length at least
    count = source.count(smallest, _MOST_VALUES if kind == _STRING else None)
    first = tuple(_scalar(source, kind) for _ in range(min(count, _KEPT_VALUES)))
    if kind == _STRING:
        for _ in range(count - len(first)):
            source.skip(source.count(1))
    else:
        source.skip((count - len(first)) * smallest)
    return ArraySummary(count, first)


def _listed(source: _Source) -> tuple[str, GGMLType, tuple[int, ...], int]:
    name = source.text()
    dimensions = int(source.number("I"))
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise source.wrong(f"tensor {name[:80]!r} has {dimensions} dimensions, not 1 to {_MOST_DIMENSIONS}")
    shape = tuple(int(source.number("Q")) for _ in range(dimensions))
    number = int(source.number("I"))
    if (kind := ggml_type(number)) is None:
        raise GgufError(f"tensor {name[:80]!r} has type {number}, which this version of llama.cpp lacks")
    return name, kind, shape, int(source.number("Q"))


def _alignment(metadata: dict[str, Scalar | ArraySummary], source: _Source) -> int:
    step = metadata.get("general.alignment", 32)
    if not isinstance(step, int) or step <= 0 or step & (step - 1):
        raise source.wrong(f"general.alignment is {step!r}, not a power of two")
    return step


def _check_place(tensor: TensorInfo, source: _Source) -> None:
    if tensor.width % tensor.dtype.block:
        raise source.wrong(f"tensor {tensor.name[:80]!r} has rows of {tensor.width}, no whole blocks")
    if tensor.offset + tensor.size > source.size:
        raise source.wrong(f"tensor {tensor.name[:80]!r} reaches beyond the end of the file")
