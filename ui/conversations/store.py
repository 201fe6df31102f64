"""The conversation history of all users, in SQLite. Each call names an owner and sees only their rows.

A call's changes are on disk when it returns and survive a kill -9. Calls are thread-safe and take well under
a millisecond, except `list` with a search, which reads all of the owner's messages. A call raises StoreError
when the file cannot be read or written, for instance on a full disk, or when another program has locked it
for `BUSY_SECONDS`. So an event loop calls it by `off_loop`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from ui.conversations import database as queries
from ui.conversations.database import Conversation, NotFound, StoreError, Summary, open_database
from ui.conversations.model import (
    INTERRUPTED,
    LOCAL,
    VISITOR,
    Author,
    GenerationInfo,
    Node,
    Opinion,
    title_of,
)
from ui.conversations.search import contains, excerpt

__all__ = ["Conversation", "NotFound", "Store", "StoreError", "Summary"]
MAX_CONVERSATIONS = 1000  # of one owner; LOCAL has no limit
TRASH_SECONDS = 15.0  # the page offers Undo for 10
BUSY_SECONDS = 1.0  # that a call waits for another program's lock
_THREADS = 8  # for `off_loop`; they use one connection, and wait together when it is locked
_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
VISITOR_DAYS = 90  # of use and by the clock, after which what an anonymous visitor has not pinned is deleted


class Store:
    """The history in the file `path`, or in memory for None.

    Opening marks unfinished answers as interrupted, since a crash cut them off, and empties the trash.
    Opening, and the first new conversation of a day, delete what visitors have left for `VISITOR_DAYS`.
    Raises StoreError.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock, self._busy_at = threading.Lock(), -math.inf
        self._threads = ThreadPoolExecutor(_THREADS, "history")
        self._connection = open_database(path)
        for function in (contains, excerpt):
            self._connection.create_function(function.__name__, 2, function, deterministic=True)
        self._purges = set[threading.Timer]()
        with self._transaction() as connection:
            unfinished = "UPDATE node SET made = ? WHERE role = 'assistant' AND made IS NULL"
            connection.execute(unfinished, [queries.generation_json(INTERRUPTED)])
            self._expire(connection)
            queries.purge(connection, math.inf)
        self._connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")

    async def off_loop(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call`, which uses the store, in a thread; one whose caller is cancelled is still completed."""
        running = self._threads.submit(call, *args, **kwargs)
        return await asyncio.shield(asyncio.wrap_future(running))

    def list(self, owner: str, search: str = "") -> tuple[Summary, ...]:
        """Return the pinned conversations, then the others, latest first.

        A search returns those with all its words in the title or in one message, and an excerpt of it.
        """
        with self._locked() as connection:
            return queries.summaries(connection, owner, " ".join(search.split()).casefold())

    def create(self, owner: str) -> str:
        """Add an empty conversation; return its unguessable id.

        At `MAX_CONVERSATIONS` the oldest one that is not pinned is deleted.
        """
        key, now = secrets.token_urlsafe(16), time.time()
        with self._transaction() as connection:
            if now // 86_400 != self._date:
                self._expire(connection)
            if owner != LOCAL:
                queries.prune(connection, owner, MAX_CONVERSATIONS - 1)
            insert = "INSERT INTO conversation (id, owner, title, created, updated) VALUES (?, ?, '', ?, ?)"
            connection.execute(insert, [key, owner, now, now])
        return key

    def load(self, owner: str, key: str) -> Conversation:
        """Return a conversation. Raises NotFound."""
        with self._transaction("BEGIN") as connection:  # one snapshot for all queries; blocks no writer
            return queries.load(connection, owner, key)

    def summary(self, owner: str, key: str) -> Summary:
        """Return a conversation's entry of the list. Raises NotFound."""
        with self._transaction("BEGIN") as connection:
            return queries.summary(connection, owner, key)

    def remaining_quota(self, owner: str) -> float:
        """Return how many conversations an owner can add before old ones are deleted; inf for `LOCAL`."""
        return math.inf if owner == LOCAL else max(0, MAX_CONVERSATIONS - len(self.list(owner)))

    def insert(self, owner: str, conversations: Iterable[Conversation]) -> tuple[str, ...]:
        """Add copies of conversations for `owner`, all or none; return the copies' new ids.

        It deletes no old ones: check `remaining_quota` before.
        """
        with self._transaction() as connection:
            return tuple(queries.copy(connection, owner, conversation) for conversation in conversations)

    def add(
        self,
        owner: str,
        key: str,
        parent: int | None,
        role: Author,
        text: str,
        *,
        made: GenerationInfo | None = None,
    ) -> int:
        """Add a message below `parent` (None adds a new root) and show it; return its id. Raises NotFound.

        The first question becomes the conversation's title.
        """
        node = Node(0, parent, role, text, time.time(), made)
        with self._transaction() as connection:
            queries.require(connection, owner, key, parent)
            node_id = queries.add(connection, key, parent, node)
            queries.show(connection, key, node_id)
            if role == "user":
                title = "UPDATE conversation SET title = ? WHERE id = ? AND title = ''"
                connection.execute(title, [title_of(text), key])
            queries.touch(connection, key, node.created)
        return node_id

    def write(self, owner: str, key: str, node: int, text: str, made: GenerationInfo | None = None) -> None:
        """Replace an answer's text and its `made`, also in a conversation in the trash. Raises NotFound.

        Without `made` the answer counts as unfinished, and is marked "interrupted" after a crash. Passing a
        `made` with that reason from the start preserves the model and the settings in a crash.
        """
        with self._transaction() as connection:
            queries.require(connection, owner, key, node, role="assistant", deleted=True)
            values = [queries.replace_surrogates(text), made and queries.generation_json(made), node]
            connection.execute("UPDATE node SET text = ?, made = ? WHERE id = ?", values)
            queries.touch(connection, key, time.time())

    def select(self, owner: str, key: str, leaf: int | None) -> None:
        """Show the conversation down to `leaf`, or none of it for None. Raises NotFound."""
        with self._transaction() as connection:
            queries.require(connection, owner, key, leaf)
            queries.show(connection, key, leaf)

    def rate(self, owner: str, key: str, node: int, opinion: Opinion | None, note: str = "") -> None:
        """Set the user's opinion and note on a message. Raises NotFound."""
        with self._transaction() as connection:
            queries.require(connection, owner, key, node)
            connection.execute(
                "UPDATE node SET opinion = ?, note = ? WHERE id = ?",
                [opinion, queries.replace_surrogates(note), node],
            )

    def delete_subtree(self, owner: str, key: str, node: int) -> tuple[Node, ...]:
        """Delete a message and all its descendants; return them, parents first. Raises NotFound.

        If it was shown, the newest leaf below its siblings is shown next, or else its parent.
        """
        with self._transaction() as connection:
            queries.require(connection, owner, key, node)
            tree = queries.load(connection, owner, key).tree
            deleted = tree.subtree(node)
            connection.executemany("DELETE FROM node WHERE id = ?", [(number,) for number in deleted])
            if tree.leaf in deleted:
                others = [tree.latest_leaf(version) for version in tree.versions(node) if version != node]
                queries.show(connection, key, max(others, default=tree.nodes[node].parent))
        return tuple(tree.nodes[number] for number in sorted(deleted))

    def restore_messages(self, owner: str, key: str, nodes: Sequence[Node], leaf: int | None) -> None:
        """Bring back deleted messages, parents first, and show down to `leaf`. Raises NotFound."""
        with self._transaction() as connection:
            queries.require(connection, owner, key, nodes[0].parent)
            for node in nodes:
                queries.add(connection, key, node.parent, node, node_id=node.id)
            queries.show(connection, key, leaf)

    def rename(self, owner: str, key: str, title: str) -> None:
        """Set the title, shortened to one line; a blank one changes nothing. Raises NotFound."""
        with self._transaction() as connection:
            queries.require(connection, owner, key)
            if line := title_of(title):
                connection.execute("UPDATE conversation SET title = ? WHERE id = ?", [line, key])

    def pin(self, owner: str, key: str, pinned: bool) -> None:
        """Pin a conversation to the top of the list, or unpin it. Raises NotFound."""
        with self._transaction() as connection:
            queries.require(connection, owner, key)
            connection.execute("UPDATE conversation SET pinned = ? WHERE id = ?", [pinned, key])

    def move(self, owner: str, keys: Iterable[str], folder: str) -> None:
        """Put conversations into a folder, "" for none; its name is shortened to one line."""
        values = [(title_of(folder), key, owner) for key in keys]
        with self._transaction() as connection:
            connection.executemany("UPDATE conversation SET folder = ? WHERE id = ? AND owner = ?", values)

    def trash(self, owner: str, keys: Iterable[str]) -> tuple[str, ...]:
        """Delete conversations, which `restore` brings back for `TRASH_SECONDS`; return their ids."""
        now = time.time()
        with self._transaction() as connection:
            trashed = queries.trash(connection, owner, keys, now)
        if trashed:
            self._purge_later(now)
        return trashed

    def restore(self, owner: str, keys: Iterable[str]) -> tuple[str, ...]:
        """Bring conversations back from the trash; return the ids of those that were still there."""
        with self._transaction() as connection:
            return queries.trash(connection, owner, keys, None)

    def _purge_later(self, until: float) -> None:
        def purge() -> None:
            self._purges.discard(timer)
            try:
                with self._transaction() as connection:
                    queries.purge(connection, until)
            except StoreError as error:  # the next purge deletes these too
                _log.warning("deleted chats are still on the disk: %s", error)

        timer = threading.Timer(TRASH_SECONDS, purge)
        timer.daemon = True
        self._purges.add(timer)
        timer.start()

    def delete(self, owner: str, key: str) -> None:
        """Delete a conversation at once and for good. Raises NotFound."""
        with self._transaction() as connection:
            queries.require(connection, owner, key)
            connection.execute("DELETE FROM conversation WHERE id = ?", [key])

    def delete_all(self, owner: str) -> None:
        """Delete all conversations of an owner."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM conversation WHERE owner = ?", [owner])

    def _expire(self, connection: sqlite3.Connection) -> None:
        now = time.time()
        queries.expire(connection, f"{VISITOR}%", VISITOR_DAYS, now)
        self._date = now // 86_400

    def close(self) -> None:
        """Complete the calls of `off_loop`, empty the trash and close the file; later calls fail."""
        self._threads.shutdown()
        for timer in tuple(self._purges):
            timer.cancel()
        with self._lock:
            with suppress(sqlite3.Error):  # the next start does it
                queries.purge(self._connection, math.inf)
            self._connection.close()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Run the block in a transaction, one thread at a time; other writing processes wait."""
        began = time.monotonic()
        with self._locked() as connection, connection:
            if begin == "BEGIN IMMEDIATE" and self._busy_at > began:
                raise sqlite3.OperationalError("database is locked")  # as another thread found meanwhile
            connection.execute(begin)
            yield connection

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        """Give one thread the connection. Raises StoreError for SQLite's errors."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise self._failure(error) from error

    def _failure(self, error: sqlite3.Error) -> StoreError:
        fix = "make room on its disk"
        if "locked" in str(error):
            self._busy_at = time.monotonic()
            fix = "end the other program that writes to it"
        return StoreError(f"the history cannot be read or written ({error}): {fix}")
