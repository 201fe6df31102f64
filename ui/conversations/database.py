"""SQLite schema and queries of the conversation history. Each query runs in its caller's transaction."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ui.conversations.model import Author, GenerationInfo, Node, Tree, title_of

SCHEMA_VERSION = 1
APPLICATION_ID = 0x47474348  # "GGCH", in the file's header, to recognize our own databases


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

# Added to a database on opening it; an older GGUF Chat, which does not know them, ignores them.
ADDED_COLUMNS = {
    "idle_since": "INTEGER REFERENCES served_day (id)",
    "folder": "TEXT NOT NULL DEFAULT ''",
    "deleted": "REAL",  # when, in seconds since 1970; NULL unless it can be restored: see `trash`
}
ADDED_TABLE = """CREATE TABLE IF NOT EXISTS served_day
    (id INTEGER PRIMARY KEY AUTOINCREMENT, date INTEGER NOT NULL UNIQUE)"""


class StoreError(Exception):
    """The history cannot be opened, read or written. The message is one line, with the fix."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """Open the history, a new one if the file is missing; None opens one in memory.

    The connection may be used from any thread and is in autocommit mode. Raises StoreError.
    """
    name = ":memory:" if path is None else str(path)
    try:
        if path is not None:
            _make_private(path)
        connection = sqlite3.connect(name, timeout=10, isolation_level=None, check_same_thread=False)
        _prepare(connection, name)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"the history {name!r} cannot be opened ({error}): name another file") from error
    return connection


def _make_private(path: Path) -> None:
    """Create the file readable only by its owner; SQLite gives its WAL files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """Configure the connection, create the tables in an empty database, and add columns to an older one."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # in WAL mode, commits survive a kill of the process
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # overwrite deleted messages in the file
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # of two processes that open a new file, one makes the tables
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in filter(str.strip, TABLES.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        _check_version(connection, path)
        connection.execute(ADDED_TABLE)
        columns = {row[1] for row in connection.execute("PRAGMA table_info (conversation)")}
        for name, kind in ADDED_COLUMNS.items():
            if name not in columns:
                connection.execute(f"ALTER TABLE conversation ADD COLUMN {name} {kind}")


def _check_version(connection: sqlite3.Connection, name: str) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise StoreError(f"{name!r} is another program's database: name another file for the history")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the history {name!r} was written by a newer GGUF Chat (version {version}, this one knows"
            f" {SCHEMA_VERSION}): update GGUF Chat, or name another file"
        )


class NotFound(LookupError):
    """The conversation or message does not exist, or belongs to another owner."""


@dataclass(frozen=True)
class Summary:
    """An entry of the history list; `title` is "" before the first question, `updated` is in Unix seconds.

    `excerpt` is of the latest message that has the words of a search; "" for none.
    """

    id: str
    title: str
    pinned: bool
    updated: float
    folder: str = ""
    excerpt: str = ""


@dataclass(frozen=True)
class Conversation:
    """A conversation with all its branches. Times are in seconds since 1970; `folder` is "" for none."""

    id: str
    title: str
    pinned: bool
    created: float
    updated: float
    tree: Tree
    folder: str = ""


_SUMMARY = "id, title, pinned, updated, folder"
_LATEST_FIRST = "ORDER BY pinned DESC, updated DESC"


def summaries(connection: sqlite3.Connection, owner: str, words: str = "") -> tuple[Summary, ...]:
    """Read the owner's list, or those that have the `words`: pinned conversations first, then the latest."""
    mine = "FROM conversation WHERE owner = ? AND deleted IS NULL"
    if not words:
        rows = connection.execute(f"SELECT {_SUMMARY} {mine} {_LATEST_FIRST}, rowid DESC", [owner])
        return tuple(_summary(*row) for row in rows)
    message = """SELECT excerpt(text, ?) FROM node
        WHERE node.conversation = conversation.id AND contains(text, ?) ORDER BY node.id DESC LIMIT 1"""
    # The limit keeps SQLite from looking for the message twice.
    with_message = f"SELECT {_SUMMARY}, rowid AS number, ({message}) AS found {mine} LIMIT -1"
    query = f"""SELECT {_SUMMARY}, found FROM ({with_message})
        WHERE found IS NOT NULL OR contains(title, ?) {_LATEST_FIRST}, number DESC"""
    return tuple(_summary(*row) for row in connection.execute(query, [words, words, owner, words]))


def _summary(key: str, title: str, pinned: int, updated: float, *rest: str | None) -> Summary:
    return Summary(key, title, bool(pinned), updated, *(text or "" for text in rest))


def summary(connection: sqlite3.Connection, owner: str, key: str) -> Summary:
    """Read a conversation's entry of the list. Raises NotFound."""
    require(connection, owner, key)
    return _summary(
        *connection.execute(f"SELECT {_SUMMARY} FROM conversation WHERE id = ?", [key]).fetchone()
    )


def require(
    connection: sqlite3.Connection,
    owner: str,
    key: str,
    node: int | None = None,
    role: Author | None = None,
    *,
    deleted: bool = False,
) -> None:
    """Raise NotFound unless the owner has the conversation and it has the message `node` by `role`.

    With `deleted`, a conversation that can still be restored counts too.
    """
    owned = "SELECT 1 FROM conversation WHERE id = ? AND owner = ? AND (deleted IS NULL OR ?)"
    if not connection.execute(owned, [key, owner, deleted]).fetchone():
        raise NotFound("this chat is not there (any more)")
    if node is not None:
        query = "SELECT 1 FROM node WHERE id = ? AND conversation = ? AND role = coalesce(?, role)"
        if not connection.execute(query, [node, key, role]).fetchone():
            raise NotFound("this message is not there (any more)")


def load(connection: sqlite3.Connection, owner: str, key: str) -> Conversation:
    """Read a conversation. Raises NotFound."""
    require(connection, owner, key)
    head = "SELECT title, pinned, created, updated, leaf, folder FROM conversation WHERE id = ?"
    title, pinned, created, updated, leaf, folder = connection.execute(head, [key]).fetchone()
    body = "SELECT id, parent, role, text, created, made, opinion, note FROM node WHERE conversation = ?"
    nodes = {row[0]: _node(*row) for row in connection.execute(body, [key])}
    return Conversation(key, title, bool(pinned), created, updated, Tree(nodes, leaf), folder)


def add(
    connection: sqlite3.Connection, key: str, parent: int | None, node: Node, *, node_id: int | None = None
) -> int:
    """Insert a message below `parent`; return its id, a new one unless `node_id` is given."""
    insert = """INSERT INTO node (id, conversation, parent, role, text, created, made, opinion, note)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
    made = node.made and generation_json(node.made)
    text, note = replace_surrogates(node.text), replace_surrogates(node.note)
    values = [node_id, key, parent, node.role, text, node.created, made, node.opinion, note]
    return int(connection.execute(insert, values).lastrowid or 0)


def copy(connection: sqlite3.Connection, owner: str, conversation: Conversation) -> str:
    """Insert a copy of a conversation, with new ids, for `owner`; return the copy's id."""
    key, ids = secrets.token_urlsafe(16), dict[int, int]()
    tree, times = conversation.tree, [conversation.created, conversation.updated]
    names = [title_of(conversation.title), title_of(conversation.folder)]
    columns = "id, owner, title, folder, pinned, created, updated"
    head = [key, owner, *names, conversation.pinned, *times]
    connection.execute(f"INSERT INTO conversation ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", head)
    for node in (tree.nodes[number] for number in sorted(tree.nodes)):  # parents before children
        parent = None if node.parent is None else ids[node.parent]
        ids[node.id] = add(connection, key, parent, node)
    show(connection, key, None if tree.leaf is None else ids[tree.leaf])
    return key


def prune(connection: sqlite3.Connection, owner: str, keep: int) -> None:
    """Delete all conversations of an owner but the latest `keep` and the pinned ones."""
    surplus = """DELETE FROM conversation WHERE id IN (SELECT id FROM conversation
        WHERE owner = ? AND NOT pinned AND deleted IS NULL
        ORDER BY updated DESC, rowid DESC LIMIT -1 OFFSET ?)"""
    connection.execute(surplus, [owner, keep])


def trash(
    connection: sqlite3.Connection, owner: str, keys: Iterable[str], now: float | None
) -> tuple[str, ...]:
    """Mark conversations as deleted at `now`, or restore them for None; return the ids of those changed."""
    change = """UPDATE conversation SET deleted = ?1
        WHERE id = ?2 AND owner = ?3 AND (deleted IS NULL) = (?1 IS NOT NULL)"""
    return tuple(key for key in keys if connection.execute(change, [now, key, owner]).rowcount)


def purge(connection: sqlite3.Connection, until: float) -> None:
    """Delete for good what was marked as deleted up to a time."""
    connection.execute("DELETE FROM conversation WHERE deleted <= ?", [until])


def record_day(connection: sqlite3.Connection, now: float) -> int:
    """Record a date on which the store is used; return how many such dates there have been.

    A conversation is idle since the first new date after its last change (`idle_since`, NULL until then).
    """
    date = [int(now // 86_400)]
    if connection.execute("INSERT OR IGNORE INTO served_day (date) VALUES (?)", date).rowcount:
        idle = "UPDATE conversation SET idle_since = last_insert_rowid() WHERE idle_since IS NULL"
        connection.execute(idle)
    (latest,) = connection.execute("SELECT max(id) FROM served_day").fetchone()
    return int(latest)


def expire(connection: sqlite3.Connection, owners: str, days: int, now: float) -> None:
    """Delete conversations of the owners LIKE `owners`, not changed for `days`, but not the pinned ones.

    The clock may be wrong, so both count: the time since the last change, and the dates since then on which
    the store was used. A clock that is ahead adds one date, whatever it says.
    """
    latest = record_day(connection, now)
    old = """DELETE FROM conversation
        WHERE owner LIKE ? AND NOT pinned AND updated < ? AND idle_since <= ?"""
    connection.execute(old, [owners, now - days * 86_400, latest - days])


def show(connection: sqlite3.Connection, key: str, leaf: int | None) -> None:
    """Make a message the last one shown."""
    connection.execute("UPDATE conversation SET leaf = ? WHERE id = ?", [leaf, key])


def touch(connection: sqlite3.Connection, key: str, now: float) -> None:
    """Set the time of a conversation's last change, by which the list is sorted."""
    connection.execute("UPDATE conversation SET updated = ?, idle_since = NULL WHERE id = ?", [now, key])


def replace_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which a browser may send and UTF-8 cannot encode, by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def generation_json(made: GenerationInfo) -> str:
    """Return the JSON text for the column `made`."""
    return json.dumps(asdict(made), allow_nan=False)


def _node(
    number: int, parent: int | None, role: Author, text: str, created: float, *rest: str | None
) -> Node:
    made, opinion, note = rest
    info = None if made is None else GenerationInfo(**json.loads(made))
    return Node(number, parent, role, text, created, info, opinion, note or "")  # type: ignore[arg-type]  # CHECKed
