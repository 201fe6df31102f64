"""The history's SQLite file: opened, checked to be ours, and given its tables."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

SCHEMA = 1
OURS = 0x47474348  # "GGCH", in the file's header: another program's database is left alone

# A message's parent is no foreign key: SQLite gives up on cascades deeper than 1,000 rows.
TABLES = """
CREATE TABLE conversation (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    title TEXT NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    leaf INTEGER
);
CREATE INDEX conversation_owner ON conversation (owner);
CREATE TABLE node (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    parent INTEGER,
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    text TEXT NOT NULL,
    created REAL NOT NULL,
    made TEXT,
    opinion TEXT CHECK (opinion IN ('like', 'dislike')),
    note TEXT NOT NULL DEFAULT ''
);
CREATE INDEX node_conversation ON node (conversation);
"""


class StoreError(Exception):
    """The history cannot be opened, read or written: the message says what to do, in one line."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """A connection for all threads, in autocommit; None is a database in memory. Raises StoreError."""
    name = ":memory:" if path is None else str(path)
    try:
        if path is not None:
            _make_private(path)
        database = sqlite3.connect(name, timeout=10, isolation_level=None, check_same_thread=False)
        _prepare(database, name)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"the history {name!r} cannot be opened ({error}): name another file") from error
    return database


def _make_private(path: Path) -> None:
    """What people write is for their own eyes; SQLite gives its other files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare(database: sqlite3.Connection, name: str) -> None:
    """Settings of the connection, and the tables unless they are there."""
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # in WAL mode, what is committed survives any kill
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA secure_delete = ON")  # what a person deletes is gone from the file too
    with database:
        database.execute("BEGIN IMMEDIATE")  # of two processes that open a new file, one makes the tables
        if _is_empty(database):
            for statement in filter(str.strip, TABLES.split(";")):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {OURS}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        _check(database, name)


def _is_empty(database: sqlite3.Connection) -> bool:
    return not database.execute("SELECT 1 FROM sqlite_master").fetchone()


def _check(database: sqlite3.Connection, name: str) -> None:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != OURS:
        raise StoreError(f"{name!r} is another program's database: name another file for the history")
    if version > SCHEMA:
        raise StoreError(
            f"the history {name!r} was written by a newer GGUF Chat (version {version}, this one knows"
            f" {SCHEMA}): update GGUF Chat, or name another file"
        )
