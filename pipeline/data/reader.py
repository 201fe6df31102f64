"""Read a data set: a file's records, each parsed into a row in one of the forms of record_formats.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from common.files import read_input
from common.text import pluralize
from pipeline.data.file_formats import reject_other_formats
from pipeline.data.options import DataOptions
from pipeline.data.record_formats import as_messages
from pipeline.data.rows import Chat, Row, parse_turns
from pipeline.errors import InputError

__all__ = ["DataOptions", "collect_errors", "read_chats", "read_data"]
T = TypeVar("T")
R = TypeVar("R")
_MAX_ERRORS = 10
"""The number of wrong lines that are reported one by one."""


def read_data(
    spec: str | Path, options: DataOptions | None = None, *, require_answer: bool = True
) -> list[Row]:
    """Read the rows of a file. Raises InputError with the file, the line, what is wrong and the fix.

    Without `require_answer` the chats may end with the user's turn, as in a list of questions.
    """
    options = options or DataOptions()
    path = Path(spec)
    try:
        reject_other_formats(path)
        raw = read_input(path).removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise InputError(f"the data set {path} does not exist: give a JSONL file of chats") from None
    except OSError as error:
        raise InputError(f"the data set {path} cannot be read: {error.strerror}") from None
    if raw.lstrip().startswith(b"["):
        raise InputError(
            f"{path}, line 1: this is not JSONL but one JSON array: write one chat a line, "
            f"as `jq -c '.[]' {path.name} > chats.jsonl` does"
        )
    if raw.lstrip().splitlines()[:1] == [b"{"]:
        raise InputError(
            f"{path}, line 1: this is not JSONL but JSON over several lines: write one chat a line, "
            f"as `jq -c . {path.name} > chats.jsonl` does"
        )
    numbered = [(number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
    rows: list[Row] = collect_errors(
        numbered, lambda item: _parse_line(str(path), *item, options, require_answer)
    )
    if not rows:
        raise InputError(f'the data set {path} is empty: write one {{"messages": [...]}} a line')
    return rows


def read_chats(path: Path, *, require_answer: bool = True) -> list[Chat]:
    """Read a data set of chats. Raises InputError as read_data does."""
    return [row for row in read_data(path, require_answer=require_answer) if isinstance(row, Chat)]


def collect_errors(items: Iterable[T], make: Callable[[T], R]) -> list[R]:
    """Return `make(item)` for each item.

    Raises the first InputError, with the next ones in its `more`, so that all can be fixed at once.
    """
    results, errors = [], []
    for item in items:
        try:
            results.append(make(item))
        except InputError as error:
            errors.append(str(error))
    if errors:
        left = (
            [f"and {pluralize(len(errors) - _MAX_ERRORS, 'more line')}"] if len(errors) > _MAX_ERRORS else []
        )
        raise InputError(errors[0], [*errors[1:_MAX_ERRORS], *left])
    return results


def _parse_line(file: str, number: int, line: bytes, options: DataOptions, require_answer: bool) -> Row:
    where = f"{file}, line {number}"
    record = _record(where, line)
    turns = parse_turns(as_messages(record, where), where, require_answer=require_answer)
    category = None
    if options.field is not None and isinstance(record, dict):
        category = str(record.get(options.field))
    return Chat(turns, number, file, category)


def _record(where: str, line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_without_repetition)
    except _RepeatedKey as error:
        raise InputError(f"{where}: the key {error.args[0]!r} is there twice: keep one") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: this is not UTF-8 text: save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        if line.rstrip().endswith(b"},"):
            raise InputError(f"{where}: a comma ends the line: leave it out, one chat is one line") from None
        raise InputError(
            f'{where}: this is not JSON ({error}): write one {{"messages": [...]}} a line'
        ) from None


class _RepeatedKey(Exception):
    """A JSON object has the same key twice, of which json keeps the last."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(next(name for name in names if names.count(name) > 1)[:80])
    return found
