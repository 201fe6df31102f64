"""Between the history's rows and a conversation; each function runs inside the caller's transaction."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from ui.conversations.model import Author, GenerationInfo, Node, Tree, title_of

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


class NotFound(LookupError):
    """There is no such conversation or message, or it is somebody else's."""


@dataclass(frozen=True)
class Summary:
    """A line of the list. `title` is "" before the first question; `updated` is in seconds since 1970."""

    id: str
    title: str
    pinned: bool
    updated: float


@dataclass(frozen=True)
class Conversation:
    """A conversation with all of its branches. Times are in seconds since 1970."""

    id: str
    title: str
    pinned: bool
    created: float
    updated: float
    tree: Tree


SUMMARIES = "SELECT id, title, pinned, updated FROM conversation"
"""A query whose rows `as_summary` takes."""


def as_summary(key: str, title: str, pinned: int, updated: float) -> Summary:
    """A row of `SUMMARIES`."""
    return Summary(key, title, bool(pinned), updated)


def summary(database: sqlite3.Connection, owner: str, key: str) -> Summary:
    """A line of the list; raises Unknown."""
    require(database, owner, key)
    return as_summary(*database.execute(f"{SUMMARIES} WHERE id = ?", [key]).fetchone())


def require(
    database: sqlite3.Connection, owner: str, key: str, node: int | None = None, role: Author | None = None
) -> None:
    """Raise Unknown unless the owner has the conversation, and it has the message, by that author."""
    mine = database.execute("SELECT 1 FROM conversation WHERE id = ? AND owner = ?", [key, owner])
    if not mine.fetchone():
        raise NotFound("this chat is not there (any more)")
    if node is not None:
        known = "SELECT 1 FROM node WHERE id = ? AND conversation = ? AND role = coalesce(?, role)"
        if not database.execute(known, [node, key, role]).fetchone():
            raise NotFound("this message is not there (any more)")


def load(database: sqlite3.Connection, owner: str, key: str) -> Conversation:
    """All of a conversation; raises Unknown."""
    require(database, owner, key)
    head = "SELECT title, pinned, created, updated, leaf FROM conversation WHERE id = ?"
    title, pinned, created, updated, leaf = database.execute(head, [key]).fetchone()
    body = "SELECT id, parent, role, text, created, made, opinion, note FROM node WHERE conversation = ?"
    nodes = {row[0]: _node(*row) for row in database.execute(body, [key])}
    return Conversation(key, title, bool(pinned), created, updated, Tree(nodes, leaf))


def add(database: sqlite3.Connection, key: str, parent: int | None, node: Node) -> int:
    """Write a message below `parent` under a new id, which is returned."""
    insert = """INSERT INTO node (conversation, parent, role, text, created, made, opinion, note)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
    made = node.made and made_json(node.made)
    text, note = whole(node.text), whole(node.note)
    values = [key, parent, node.role, text, node.created, made, node.opinion, note]
    return int(database.execute(insert, values).lastrowid or 0)


def copy(database: sqlite3.Connection, owner: str, conversation: Conversation) -> str:
    """Write a conversation once more, for `owner`; the ids are new, and the conversation's is returned."""
    key, ids = secrets.token_urlsafe(16), dict[int, int]()
    tree, times = conversation.tree, [conversation.created, conversation.updated]
    head = [key, owner, title_of(conversation.title), conversation.pinned, *times]
    columns = "id, owner, title, pinned, created, updated"
    database.execute(f"INSERT INTO conversation ({columns}) VALUES (?, ?, ?, ?, ?, ?)", head)
    for node in (tree.nodes[number] for number in sorted(tree.nodes)):  # parents before children
        parent = None if node.parent is None else ids[node.parent]
        ids[node.id] = add(database, key, parent, node)
    show(database, key, None if tree.leaf is None else ids[tree.leaf])
    return key


def make_room(database: sqlite3.Connection, owner: str, most: int) -> None:
    """Leave an owner's latest `most` conversations, and all that are pinned."""
    surplus = """DELETE FROM conversation WHERE id IN (SELECT id FROM conversation
        WHERE owner = ? AND NOT pinned ORDER BY updated DESC, rowid DESC LIMIT -1 OFFSET ?)"""
    database.execute(surplus, [owner, most])


def show(database: sqlite3.Connection, key: str, leaf: int | None) -> None:
    """Make a message the last one shown."""
    database.execute("UPDATE conversation SET leaf = ? WHERE id = ?", [leaf, key])


def touch(database: sqlite3.Connection, key: str, now: float) -> None:
    """The conversation was used at that time: it moves up in the list."""
    database.execute("UPDATE conversation SET updated = ? WHERE id = ?", [now, key])


def whole(text: str) -> str:
    """The text as UTF-8 can hold it: halves of surrogate pairs, which a browser may send, become `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def made_json(made: GenerationInfo) -> str:
    """For the column `made`."""
    return json.dumps(asdict(made), allow_nan=False)


def _node(
    number: int, parent: int | None, role: Author, text: str, created: float, *rest: str | None
) -> Node:
    made, opinion, note = rest
    how = None if made is None else GenerationInfo(**json.loads(made))
    return Node(number, parent, role, text, created, how, opinion, note or "")  # type: ignore[arg-type]  # CHECKed
