"""Reader for untrusted GGUF files: header and rows, in Python, by the specification (ggml's docs/gguf.md).

Every length is checked against the remaining bytes. Data is read rather than mapped, so that a file that
shrinks meanwhile causes an error instead of a signal.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common.files import open_input
from ggufio.errors import GgufError
from ggufio.ggml import GGMLType, ggml_type

_STRING, _ARRAY = 8, 9  # of enum gguf_metadata_value_type
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_TEXT = 1 << 16  # bytes of a string that are returned; chat templates may be long
_MAX_FIRST_VALUES = 6  # of an array that are returned
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_ENTRIES = 1 << 13  # of metadata, and of tensors; the largest models have some thousand
_MAX_STRINGS = 1 << 23  # of an array, which are skipped one by one; vocabularies have 256 k
Scalar = str | int | float | bool


@dataclass(frozen=True)
class ArraySummary:
    """An array of the metadata: its length and its first values."""

    count: int
    first: tuple[Scalar, ...]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: its `shape` with the width of a row first, as in the file, and its data's offset."""

    name: str
    dtype: GGMLType
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def width(self) -> int:
        """Return the number of values in a row."""
        return self.shape[0]

    @property
    def rows(self) -> int:
        """Return the number of rows, over all other dimensions."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Return the size of a row in bytes."""
        return self.width // self.dtype.block * self.dtype.size

    @property
    def size(self) -> int:
        """Return the size of all rows in bytes."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file. `metadata` and `tensors` are in the file's order."""

    path: Path
    metadata: dict[str, Scalar | ArraySummary]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GgufHeader:
    """Read the header of a file. Raises GgufError, which names the defect."""
    try:
        size = path.stat().st_size
        with open_input(path) as file:
            return _read(path, _Source(file, size, path.name))
    except OSError as error:
        raise GgufError(f"{path.name} cannot be read: {error.strerror or error}") from error


def read_types(
    path: Path,
) -> tuple[dict[str, Scalar | ArraySummary], list[tuple[int, tuple[int, ...]]]]:
    """Return the metadata, and each tensor's type number and shape. Needs no llama.cpp. Raises GgufError."""
    try:
        size = path.stat().st_size
        with open_input(path) as file:
            source = _Source(file, size, path.name)
            count, metadata = _read_metadata(path, source)
            return metadata, [_described(source)[1:3] for _ in range(count)]
    except OSError as error:
        raise GgufError(f"{path.name} cannot be read: {error.strerror or error}") from error


def read_rows(tensor: TensorInfo, rows: Iterable[int]) -> bytes:
    """Return the bytes of some rows. Raises GgufError when the file has become shorter."""
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
    """A file that is read once, front to back, with bounds checks."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self.size, self.place, self._name = file, size, 0, name

    def damaged(self, what: str) -> GgufError:
        """Return the error to raise."""
        return GgufError(f"{self._name} is damaged: {what}; download or export it again")

    def take(self, count: int) -> bytes:
        self._check(count)
        return _all_of(self._file.read(count), count, self._name)

    def skip(self, count: int) -> None:
        self._check(count)
        self._file.seek(count, 1)

    def count(self, smallest: int, limit: int | None = None) -> int:
        """Read a count of items that take at least `smallest` bytes each."""
        found = int(self.number("Q"))
        if found * smallest > self.size - self.place or (limit is not None and found > limit):
            raise self.damaged(f"it claims {found} entries at byte {self.place}, more than there can be")
        return found

    def number(self, form: str) -> int | float | bool:
        found: int | float | bool = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]
        return found

    def text(self, max_bytes: int = _MAX_TEXT) -> str:
        length = self.count(1)
        text = self.take(min(length, max_bytes)).decode("utf-8", "replace")
        self.skip(length - min(length, max_bytes))
        return text

    def _check(self, count: int) -> None:
        if count > self.size - self.place:
            raise self.damaged(f"it ends at byte {self.size}, within its head")
        self.place += count


def _read_metadata(path: Path, source: _Source) -> tuple[int, dict[str, Scalar | ArraySummary]]:
    """Return the number of tensors, and the metadata."""
    if source.take(4) != b"GGUF":
        raise GgufError(f"{path.name} is not a GGUF file")
    version = source.number("I")
    if version not in (2, 3):
        raise source.damaged(f"its version is {version}, and 2 and 3 are known")
    tensors, entries = source.count(32, _MAX_ENTRIES), source.count(13, _MAX_ENTRIES)
    metadata = {}
    for _ in range(entries):
        key = source.text()
        metadata[key] = _value(source, int(source.number("I")))
    return tensors, metadata


def _read(path: Path, source: _Source) -> GgufHeader:
    tensors, metadata = _read_metadata(path, source)
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


def _scalar(source: _Source, kind: int, max_bytes: int = _MAX_TEXT) -> Scalar:
    if kind == _STRING:
        return source.text(max_bytes)
    if kind not in _FORMATS:
        raise source.damaged(f"its metadata has a value of the unknown type {kind}")
    return source.number(_FORMATS[kind])


def _array(source: _Source) -> ArraySummary:
    kind = int(source.number("I"))
    smallest = struct.calcsize(f"<{_FORMATS.get(kind, 'Q')}")  # a string has at least its length
    count = source.count(smallest, _MAX_STRINGS if kind == _STRING else None)
    first = tuple(_scalar(source, kind) for _ in range(min(count, _MAX_FIRST_VALUES)))
    if kind == _STRING:
        for _ in range(count - len(first)):
            source.skip(source.count(1))
    else:
        source.skip((count - len(first)) * smallest)
    return ArraySummary(count, first)


def _listed(source: _Source) -> tuple[str, GGMLType, tuple[int, ...], int]:
    name, number, shape, place = _described(source)
    if (kind := ggml_type(number)) is None:
        raise GgufError(f"tensor {name[:80]!r} has type {number}, which this version of llama.cpp lacks")
    return name, kind, shape, place


def _described(source: _Source) -> tuple[str, int, tuple[int, ...], int]:
    name = source.text()
    dimensions = int(source.number("I"))
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise source.damaged(f"tensor {name[:80]!r} has {dimensions} dimensions, not 1 to {_MAX_DIMENSIONS}")
    shape = tuple(int(source.number("Q")) for _ in range(dimensions))
    number = int(source.number("I"))
    return name, number, shape, int(source.number("Q"))


def _alignment(metadata: dict[str, Scalar | ArraySummary], source: _Source) -> int:
    step = metadata.get("general.alignment", 32)
    if not isinstance(step, int) or step <= 0 or step & (step - 1):
        raise source.damaged(f"general.alignment is {step!r}, not a power of two")
    return step


def _check_place(tensor: TensorInfo, source: _Source) -> None:
    if tensor.width % tensor.dtype.block:
        raise source.damaged(f"tensor {tensor.name[:80]!r} has rows of {tensor.width}, no whole blocks")
    if tensor.offset + tensor.size > source.size:
        raise source.damaged(f"tensor {tensor.name[:80]!r} reaches beyond the end of the file")
