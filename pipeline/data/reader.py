"""Read a data set: the records of a file, a folder or the Hub, each parsed into a chat or a plain text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from common.text import pluralize
from pipeline.data.columns import category_of, chat_of_columns, column_text
from pipeline.data.options import DataOptions
from pipeline.data.record_files import Records, file_records
from pipeline.data.record_formats import find_messages
from pipeline.data.repositories import folder_records, hub_records, is_hub_id
from pipeline.data.rows import Chat, PlainText, Row, UnknownForm, parse_turns, require_text
from pipeline.data.trees import TreePath, flat_paths, is_flat, is_nested, nested_path
from pipeline.errors import InputError

__all__ = ["DataOptions", "DataSet", "PlainText", "collect_errors", "load_data", "read_chats", "read_data"]
T = TypeVar("T")
R = TypeVar("R")
_TABLES = ("CSV", "TSV")
_MAX_ERRORS = 10
"""The number of wrong lines that are reported one by one."""


@dataclass(frozen=True)
class DataSet:
    """The rows of a data set, its kind of file, how many rows had each form, and what was left out."""

    rows: list[Row]
    kind: str
    forms: dict[str, int]
    notes: list[str]


def read_data(
    spec: str | Path, options: DataOptions | None = None, *, require_answer: bool = True
) -> list[Row]:
    """Return the rows of a file, a folder, or a data set on the Hub (owner/name), as load_data reads them."""
    return load_data(spec, options, require_answer=require_answer).rows


def read_chats(path: Path, *, require_answer: bool = True) -> list[Chat]:
    """Return the chats of a data set, as load_data reads them."""
    return [row for row in read_data(path, require_answer=require_answer) if isinstance(row, Chat)]


def load_data(
    spec: str | Path, options: DataOptions | None = None, *, require_answer: bool = True
) -> DataSet:
    """Read a file, a folder, or a data set on the Hub (owner/name); an existing path is never one on the Hub.

    Without `require_answer` the chats may end with the user's turn, as in a list of questions. Raises
    InputError with the place, what is wrong and the fix.
    """
    options = options or DataOptions()
    records = _open(spec, options)
    reader = _RowReader(records, options, require_answer)
    numbered = iter(records.numbered)
    first = next(numbered, None)
    if first is None:
        fix = (
            "write rows below the names"
            if records.kind in _TABLES
            else 'write one {"messages": [...]} a line'
        )
        raise InputError(f"the data set {spec} is empty: {fix}")
    every = chain([first], numbered)
    if is_flat(first[1]) and options.columns is None and options.text is None:
        rows = reader.rows_of_trees(every)
    else:
        rows = [row for row in collect_errors(every, reader.row) if row is not None]
    if not rows:
        raise InputError(f"the data set {spec} has no answer to learn from: {'; '.join(reader.notes())}")
    return DataSet(rows, records.kind, dict(reader.forms), reader.notes())


def collect_errors(items: Iterable[T], make: Callable[[T], R]) -> list[R]:
    """Return `make(item)` for each item.

    Raises the first InputError, with the next ones in its `more`, so that all can be fixed at once; an
    UnknownForm of the first item comes without them, as it is that of all.
    """
    results: list[R] = []
    errors: list[str] = []
    for item in items:
        try:
            results.append(make(item))
        except InputError as error:
            if isinstance(error, UnknownForm) and not results and not errors:
                raise
            errors.append(str(error))
    if errors:
        left = (
            [f"and {pluralize(len(errors) - _MAX_ERRORS, 'more line')}"] if len(errors) > _MAX_ERRORS else []
        )
        raise InputError(errors[0], [*errors[1:_MAX_ERRORS], *left])
    return results


def _open(spec: str | Path, options: DataOptions) -> Records:
    path = Path(spec)
    if link := re.match(r"https?://[^/]+/(?:datasets/([\w.-]+/[\w.-]+))?", str(spec)):
        found = f"the data set's name on the Hub, {link[1]}" if link[1] else "the file itself, downloaded"
        raise InputError(f"the data set {spec} is a link: give {found}")
    try:
        if path.is_dir():
            records = folder_records(path, options)
        elif path.exists() or path.is_symlink() or not is_hub_id(str(spec)):
            records = file_records(path)
            if options.split is not None:
                raise InputError(f"the data set {path} is a file, which has no splits: leave --split out")
        else:
            return hub_records(str(spec), options)
    except FileNotFoundError:
        raise InputError(
            f"the data set {path} does not exist: give a file (JSONL, JSON, CSV, Parquet), a folder, "
            "or a name on the Hub (owner/name)"
        ) from None
    except OSError as error:
        raise InputError(f"the data set {path} cannot be read: {error.strerror}") from None
    if options.revision is not None:
        raise InputError(f"--revision is for a data set on the Hub, and {path} is here: leave it out")
    return records


class _RowReader:
    """Parse records into rows, counting their forms and what is left out."""

    def __init__(self, records: Records, options: DataOptions, require_answer: bool) -> None:
        self.forms: Counter[str] = Counter()
        self._records = records
        self._options = options
        self._require_answer = require_answer
        self._notes: list[str] = []
        self._unanswered = self._bare_trees = 0

    def row(self, numbered: tuple[int, object]) -> Row | None:
        """Return a record's row; None for a tree without an answer. Raises InputError with its place."""
        number, record = numbered
        where = self._where(number)
        if isinstance(record, InputError):
            raise record
        if self._options.text is not None:
            return self._plain_text(number, record)
        if self._options.columns is not None:
            return self._chat("--columns", number, record, chat_of_columns(record, self._options, where))
        if isinstance(record, dict) and is_nested(record):
            return self._tree(nested_path(record, number, require_answer=self._require_answer))
        try:
            found = find_messages(record, where, require_answer=self._require_answer)
        except UnknownForm as error:
            if self._records.kind in _TABLES:
                raise UnknownForm(f"{error}; a table's first row names its columns") from None
            raise
        self._unanswered += found.unanswered
        return self._chat(found.form, number, record, found.messages)

    def rows_of_trees(self, numbered: Iterator[tuple[int, object]]) -> list[Row]:
        """Return a row for each tree of messages."""
        paths, notes = flat_paths(self._records.name, numbered, require_answer=self._require_answer)
        self._notes += notes
        return [row for row in collect_errors(paths, self._tree) if row is not None]

    def notes(self) -> list[str]:
        """Return what was left out, a line each."""
        found = list(self._notes)
        if self._bare_trees:
            found.append(
                f"{pluralize(self._bare_trees, 'tree was', 'trees were')} left out, without an answer"
            )
        if self._unanswered:
            found.append(
                f"{pluralize(self._unanswered, 'chat', 'chats')} ended with a question without an answer, "
                "which was left out"
            )
        return found

    def _where(self, number: int) -> str:
        return f"{self._records.name}, {self._records.unit} {number}"

    def _tree(self, path: TreePath) -> Row | None:
        if not path.messages:
            self._bare_trees += 1
            return None
        return self._chat("oasst tree", path.number, path.record, path.messages)

    def _chat(self, form: str, number: int, record: object, messages: object) -> Chat:
        where = self._where(number)
        turns = parse_turns(messages, where, require_answer=self._require_answer)
        self.forms[form] += 1
        category = category_of(record, self._options.field, where)
        return Chat(turns, number, self._records.name, category, self._records.unit)

    def _plain_text(self, number: int, record: object) -> PlainText:
        where = self._where(number)
        parts = self._options.template
        text = "".join(
            literal + ("" if column is None else column_text(record, column, where, "--text"))
            for literal, column in parts
        )
        require_text(text, where)
        if not text.strip():
            raise InputError(f"{where}: its text is empty: write it, or remove the row")
        self.forms["plain text"] += 1
        category = category_of(record, self._options.field, where)
        return PlainText(text, number, self._records.name, category, self._records.unit)
