"""A GGUF file as plain values that may be made inconsistent: read from bytes, changed, and written again.

The `gguf` package writes valid files only. The layout is that of ggml/docs/gguf.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
"""Types of metadata."""
_FORMATS = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "B",
    U64: "Q",
    I64: "q",
    F64: "d",
}
INTEGERS = (U8, I8, U16, I16, U32, I32, BOOL, U64, I64)
_ALIGNMENT = 32


@dataclass
class Field:
    """One entry of the metadata. The value of a STRING is bytes, that of an ARRAY is an Array."""

    key: bytes
    type: int
    value: Any


@dataclass
class Array:
    """An array's elements and their type; `count` is what the file claims, None for the truth."""

    type: int
    items: list[Any]
    count: int | None = None


@dataclass
class Tensor:
    """The description of a tensor."""

    name: bytes
    dims: list[int]
    type: int
    offset: int


@dataclass
class RawGguf:
    """A whole file. `counts` are (tensors, fields) as the file claims, None for the truth."""

    version: int
    fields: list[Field]
    tensors: list[Tensor]
    data: bytes
    counts: tuple[int, int] | None = None
    magic: bytes = field(default=b"GGUF")

    def find(self, key: str) -> Field | None:
        """Return the first entry with this key."""
        return next((one for one in self.fields if one.key == key.encode()), None)

    def put(self, key: str, kind: int, value: Any) -> None:
        """Set an entry, or add it."""
        if (found := self.find(key)) is None:
            self.fields.append(Field(key.encode(), kind, value))
        else:
            found.type, found.value = kind, value

    def copy(self) -> RawGguf:
        """Return a copy that can be changed; only the weights are shared."""
        return replace(
            self,
            fields=[Field(one.key, one.type, _copied(one.value)) for one in self.fields],
            tensors=[replace(one, dims=list(one.dims)) for one in self.tensors],
        )

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        tensors, fields = self.counts or (len(self.tensors), len(self.fields))
        parts = [self.magic, struct.pack("<IQQ", self.version, tensors, fields)]
        for one in self.fields:
            parts += [_string(one.key), struct.pack("<I", one.type), _value(one.type, one.value)]
        for tensor in self.tensors:
            dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
            parts += [_string(tensor.name), dims, struct.pack("<IQ", tensor.type, tensor.offset)]
        head = b"".join(parts)
        return head + bytes(-len(head) % _ALIGNMENT) + self.data


def _copied(value: Any) -> Any:
    return replace(value, items=list(value.items)) if isinstance(value, Array) else value


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _string(value)
    if kind != ARRAY:
        return _number(kind, value)
    count = len(value.items) if value.count is None else value.count
    return struct.pack("<IQ", value.type, count) + b"".join(_value(value.type, one) for one in value.items)


def _number(kind: int, value: Any) -> bytes:
    if kind in (F32, F64):
        try:
            return struct.pack(f"<{_FORMATS[kind]}", value)
        except OverflowError:
            return struct.pack(f"<{_FORMATS[kind]}", float("inf"))
    size = struct.calcsize(_FORMATS[kind])
    return (int(value) % (1 << 8 * size)).to_bytes(size, "little")


def read_raw(content: bytes) -> RawGguf:
    """Parse a valid file."""
    reader = _Reader(content)
    magic, (version, tensor_count, field_count) = reader.take(4), reader.unpack("IQQ")
    fields = [reader.field() for _ in range(field_count)]
    tensors = [reader.tensor() for _ in range(tensor_count)]
    reader.take(-reader.at % _ALIGNMENT)
    return RawGguf(version, fields, tensors, content[reader.at :], magic=magic)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self._content[self.at - size : self.at]

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def string(self) -> bytes:
        return self.take(self.unpack("Q")[0])

    def field(self) -> Field:
        key, (kind,) = self.string(), self.unpack("I")
        return Field(key, kind, self.value(kind))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            item, count = self.unpack("IQ")
            return Array(item, [self.value(item) for _ in range(count)])
        return self.unpack(_FORMATS[kind])[0]

    def tensor(self) -> Tensor:
        name, (count,) = self.string(), self.unpack("I")
        dims = list(self.unpack(f"{count}Q"))
        return Tensor(name, dims, *self.unpack("IQ"))
