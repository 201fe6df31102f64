"""The records of a data set's file: JSON Lines, JSON, CSV, TSV or Parquet, each also packed by gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import MissingPackage
from common.file_kinds import kind_of
from common.files import open_input, read_input
from common.text import first_line
from pipeline.data.file_formats import delimited, refuse_kind
from pipeline.data.rows import Unit
from pipeline.errors import InputError

_LISTS = ("data", "rows", "examples")
"""Keys of a JSON object under which the records are."""


@dataclass(frozen=True)
class Records:
    """The records of a data set with their numbers; a record that cannot be read is an InputError.

    `kind` is the kind of file, `name` what messages call it, `unit` how its records are counted. A table's
    header is row 1 of a CSV file, as a spreadsheet shows it.
    """

    name: str
    kind: str
    unit: Unit
    numbered: Iterator[tuple[int, object]]


def file_records(path: Path) -> Records:
    """Open a file. Raises OSError, and InputError for a file of another kind, with the fix."""
    kind = kind_of(path)
    if kind == "Parquet":
        with open_input(path) as file:
            return _parquet(str(path), file.read())
    packed = kind == "gzip"
    if kind is not None and not packed:
        raise refuse_kind(path, kind)
    raw = _unpacked(path) if packed else read_input(path)
    if packed and raw.startswith(b"PAR1"):
        return _parquet(str(path), raw)
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    delimiter = delimited(path)
    if delimiter is not None:
        return Records(str(path), "TSV" if delimiter == "\t" else "CSV", "row", _table(path, raw, delimiter))
    return _json(str(path), raw)


def keys_text(record: dict[str, Any]) -> str:
    """Return a record's keys for a message."""
    keys = [repr(str(key)[:40]) for key in record]
    return ", ".join(keys[:12]) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "") or "none"


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(read_input(path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"the data set {path} is a damaged gzip file ({first_line(error)}): fetch it again"
        ) from None


def _parquet(name: str, raw: bytes) -> Records:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackage("pyarrow") from None
    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name} is damaged Parquet ({first_line(error)}): fetch it again") from None

    def rows() -> Iterator[object]:
        try:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{name} is damaged Parquet ({first_line(error)}): fetch it again") from None

    return Records(name, "Parquet", "row", enumerate(rows(), 1))


def _table(path: Path, raw: bytes, delimiter: str) -> Iterator[tuple[int, object]]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        old, new = shlex.quote(path.name), shlex.quote(f"utf8-{path.name}")
        raise InputError(
            f"{path}: this is not UTF-8 text: save it as UTF-8, in a spreadsheet or with "
            f"`iconv -f WINDOWS-1252 -t UTF-8 {old} > {new}`"
        ) from None
    if not delimiter:
        head = text.lstrip().partition("\n")[0]
        delimiter = max(",;\t|", key=head.count)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(table, [])
        repeated = next((name for name in header if header.count(name) > 1), None)
        if repeated is not None:
            raise InputError(f"{path}, row 1: the column {repeated!r} is there twice: keep one")
        for number, cells in enumerate(table, 2):
            if cells and any(cells):
                yield number, _row(path, number, header, cells)
    except csv.Error as error:
        raise InputError(
            f"{path}, line {table.line_num}: this is no valid CSV ({error}): write it anew"
        ) from None


def _row(path: Path, number: int, header: list[str], cells: list[str]) -> object:
    if len(cells) > len(header):
        return InputError(
            f"{path}, row {number}: {len(cells)} cells where the first row names {len(header)} columns: "
            'put quotes (") around a text with the separator in it'
        )
    return dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=True))


def _json(name: str, raw: bytes) -> Records:
    lines = [(number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
    if (listed := _listed(name, raw, lines)) is not None:
        return Records(name, "JSON", "row", enumerate(listed, 1))
    number, first = lines[0] if lines else (1, b"{")
    if (
        isinstance(wrong := _parsed(f"{name}, line {number}", first), InputError)
        and first.strip()[:1].isalnum()
    ):
        raise InputError(f"{wrong}; if it is a table, call the file .csv or .tsv")
    numbered = ((number, _parsed(f"{name}, line {number}", line)) for number, line in lines)
    return Records(name, "JSON Lines", "line", numbered)


def _listed(name: str, raw: bytes, lines: list[tuple[int, bytes]]) -> list[object] | None:
    """Return the records of a JSON document; None for JSON Lines."""
    first = lines[0][1].strip() if lines else b""
    whole: object
    if first.startswith(b"[") or first == b"{":
        whole = _parsed(f"{name}, line {lines[0][0]}", raw)
        if isinstance(whole, InputError):
            raise whole
    elif len(lines) > 1 and not isinstance(_parsed(name, first), InputError):
        return None
    else:
        whole = _parsed(name, raw)
        if isinstance(whole, InputError):
            return None
    if isinstance(whole, list):
        return whole
    if (columns := _columnar(whole)) is not None:
        return columns
    inner = _list_in(whole)
    return inner if inner is not None or len(lines) == 1 else [whole]


def _columnar(whole: object) -> list[object] | None:
    """Return the rows of {"question": [...], "answer": [...]}, or pandas' {"question": {"0": ...}, ...}."""
    if not isinstance(whole, dict) or len(whole) < 2:
        return None
    first, *others = columns = list(whole.values())
    if not all(type(column) is type(first) and first for column in columns):
        return None
    if isinstance(first, dict) and all(column.keys() == first.keys() for column in others):
        numbered = all(key.isdigit() for key in first)
        return [{name: column[key] for name, column in whole.items()} for key in first] if numbered else None
    if not isinstance(first, list) or any(len(column) != len(first) for column in others):
        return None
    if any(isinstance(value, dict | list) for column in columns for value in column):
        return None
    return [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)]


def _list_in(whole: object) -> list[object] | None:
    """Return the records of {"data": [...]}."""
    if not isinstance(whole, dict):
        return None
    lists = [whole[key] for key in _LISTS if isinstance(whole.get(key), list)]
    found = lists[0] if lists else None
    return found if found and all(isinstance(record, dict) for record in found) else None


def _parsed(where: str, text: bytes) -> object:
    """Return JSON's value, or an InputError, so that all wrong lines of a file can be told at once."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
    except _RepeatedKey as error:
        return InputError(f"{where}: the key {error.args[0]!r} is there twice: keep one")
    except UnicodeDecodeError:
        return InputError(f"{where}: this is not UTF-8 text: save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        if text.rstrip().endswith(b"},"):
            return InputError(f"{where}: a comma ends the line: leave it out, one chat is one line")
        return InputError(f'{where}: this is not JSON ({error}): write one {{"messages": [...]}} a line')


class _RepeatedKey(Exception):
    """A JSON object has the same key twice, of which json keeps the last."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(next(name for name in names if names.count(name) > 1)[:80])
    return found
