"""Kinds of files that are often given in place of another, known by their first bytes."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile, ZipFile

from common.files import open_input

HEAD = 512
"""The number of first bytes that suffice."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"\xff\xff\xff\xff", "Arrow"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf", "7z"),
    (b"PK\x03\x04", "zip"),
    (b"SQLite format 3\0", "SQLite"),
    (b"\x89HDF", "HDF5"),
    (b"\x93NUMPY", "NumPy"),
    (b"%PDF-", "PDF"),
    (b"\xd0\xcf\x11\xe0", "Office"),
    (b"GGUF", "GGUF"),
    (b"version https://git-lfs", "Git LFS pointer"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def kind_of(path: Path) -> str | None:
    """Return the kind of a file that is neither JSON nor safetensors: "Parquet"; None for any other.

    Raises OSError.
    """
    with open_input(path) as file:
        head = file.read(HEAD)
    kind = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    if kind == "zip":
        return _kind_of_zip(path)
    if kind is None and head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle"
    if kind is None and head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "HTML"
    return kind


def _kind_of_zip(path: Path) -> str:
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (BadZipFile, OSError, ValueError):
        return "zip"
    if any(name.startswith("xl/") for name in names):
        return "Excel"
    return "pickle" if any(name.endswith("/data.pkl") for name in names) else "zip"
