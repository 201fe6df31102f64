"""The conversations of all people, in SQLite. Every call names an owner and sees that owner's rows alone.

What a call has written is on disk when it returns and survives a kill -9. Any thread may call; a call takes
well under a millisecond, apart from `list` with a search, which reads all that the owner has written. When
the file can no longer be read or written, on a full disk for instance, a call raises StoreError.
"""

from __future__ import annotations

import math
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ui.conversations import database as rows
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

__all__ = ["Conversation", "NotFound", "Store", "StoreError", "Summary"]
MOST = 1000  # conversations of one owner; a person on their own machine has no limit
VISITORS_DAYS = 90  # after which a browser that was known by its cookie alone is not expected back


class Store:
    """Keeps conversations; `path` None keeps them in memory, until the process ends.

    Opening marks answers that nobody finished: a crash cut them; and it forgets visitors of long ago. Raises
    StoreError when it cannot open.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._database = open_database(path)
        self._database.create_function("contains", 2, _contains, deterministic=True)
        with self._transaction() as database:
            unfinished = "UPDATE node SET made = ? WHERE role = 'assistant' AND made IS NULL"
            database.execute(unfinished, [rows.made_json(INTERRUPTED)])
            old = "DELETE FROM conversation WHERE owner LIKE ? AND updated < ?"
            database.execute(old, [f"{VISITOR}%", time.time() - VISITORS_DAYS * 86_400])

    def list(self, owner: str, search: str = "") -> tuple[Summary, ...]:
        """Pinned ones first, then the latest; a search finds all its words in a title or a message."""
        query, values = f"{rows.SUMMARIES} WHERE owner = ?", [owner]
        if wanted := " ".join(search.split()).casefold():
            query += """ AND (contains(title, ?) OR EXISTS
                (SELECT 1 FROM node WHERE node.conversation = conversation.id AND contains(text, ?)))"""
            values += [wanted, wanted]
        with self._held() as database:
            found = database.execute(f"{query} ORDER BY pinned DESC, updated DESC, rowid DESC", values)
            return tuple(rows.as_summary(*row) for row in found)

    def create(self, owner: str) -> str:
        """A new empty conversation; its id cannot be guessed. It may push out the oldest one not pinned."""
        key, now = secrets.token_urlsafe(16), time.time()
        with self._transaction() as database:
            if owner != LOCAL:
                rows.make_room(database, owner, MOST - 1)
            insert = "INSERT INTO conversation (id, owner, title, created, updated) VALUES (?, ?, '', ?, ?)"
            database.execute(insert, [key, owner, now, now])
        return key

    def load(self, owner: str, key: str) -> Conversation:
        """All of a conversation; raises Unknown."""
        with self._transaction("BEGIN") as database:  # all queries see the same moment; no writer is held up
            return rows.load(database, owner, key)

    def summary(self, owner: str, key: str) -> Summary:
        """A conversation's line of the list; raises Unknown."""
        with self._transaction("BEGIN") as database:
            return rows.summary(database, owner, key)

    def room(self, owner: str) -> float:
        """How many more conversations an owner may have without losing one; infinite for `LOCAL`."""
        return math.inf if owner == LOCAL else max(0, MOST - len(self.list(owner)))

    def insert(self, owner: str, conversations: Iterable[Conversation]) -> tuple[str, ...]:
        """Copies with ids of their own, for `owner`, all or none; returns the copies' ids.

        It pushes nothing out: ask for `room` before.
        """
        with self._transaction() as database:
            return tuple(rows.copy(database, owner, conversation) for conversation in conversations)

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
        """Hang a message below `parent` (None: a new beginning) and show it; returns its id. Raises Unknown.

        The first question gives the conversation its title.
        """
        node = Node(0, parent, role, text, time.time(), made)
        with self._transaction() as database:
            rows.require(database, owner, key, parent)
            added = rows.add(database, key, parent, node)
            rows.show(database, key, added)
            if role == "user":
                title = "UPDATE conversation SET title = ? WHERE id = ? AND title = ''"
                database.execute(title, [title_of(text), key])
            rows.touch(database, key, node.created)
        return added

    def write(self, owner: str, key: str, node: int, text: str, made: GenerationInfo | None = None) -> None:
        """Replace an answer's text and how it was made; raises Unknown.

        Without `made` it counts as unfinished: after a crash its reason is "interrupted". Who knows the model
        and the settings may give a `made` with that reason from the start, which a crash then keeps.
        """
        with self._transaction() as database:
            rows.require(database, owner, key, node, role="assistant")
            values = [rows.whole(text), made and rows.made_json(made), node]
            database.execute("UPDATE node SET text = ?, made = ? WHERE id = ?", values)
            rows.touch(database, key, time.time())

    def select(self, owner: str, key: str, leaf: int | None) -> None:
        """Show the conversation down to `leaf`; None shows none of it. Raises Unknown."""
        with self._transaction() as database:
            rows.require(database, owner, key, leaf)
            rows.show(database, key, leaf)

    def judge(self, owner: str, key: str, node: int, opinion: Opinion | None, note: str = "") -> None:
        """Keep what a person thinks of a message; raises Unknown."""
        with self._transaction() as database:
            rows.require(database, owner, key, node)
            database.execute(
                "UPDATE node SET opinion = ?, note = ? WHERE id = ?", [opinion, rows.whole(note), node]
            )

    def cut(self, owner: str, key: str, node: int) -> None:
        """Remove a message and all below it; raises Unknown.

        If it was shown, its parent's youngest other branch is shown now, or the parent when there is none.
        """
        with self._transaction() as database:
            rows.require(database, owner, key, node)
            tree = rows.load(database, owner, key).tree
            gone = tree.below(node)
            database.executemany("DELETE FROM node WHERE id = ?", [(number,) for number in gone])
            if tree.leaf in gone:
                left = [tree.tip(version) for version in tree.versions(node) if version != node]
                rows.show(database, key, max(left, default=tree.nodes[node].parent))

    def rename(self, owner: str, key: str, title: str) -> None:
        """Give a title, cut to one short line; an empty one changes nothing. Raises Unknown."""
        with self._transaction() as database:
            rows.require(database, owner, key)
            if line := title_of(title):
                database.execute("UPDATE conversation SET title = ? WHERE id = ?", [line, key])

    def pin(self, owner: str, key: str, pinned: bool) -> None:
        """Keep at the top of the list, or no longer; raises Unknown."""
        with self._transaction() as database:
            rows.require(database, owner, key)
            database.execute("UPDATE conversation SET pinned = ? WHERE id = ?", [pinned, key])

    def delete(self, owner: str, key: str) -> None:
        """Remove a conversation for good; raises Unknown."""
        with self._transaction() as database:
            rows.require(database, owner, key)
            database.execute("DELETE FROM conversation WHERE id = ?", [key])

    def delete_all(self, owner: str) -> None:
        """Remove all that an owner has."""
        with self._transaction() as database:
            database.execute("DELETE FROM conversation WHERE owner = ?", [owner])

    def close(self) -> None:
        """Let go of the file; calls after this fail."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """All or nothing, one thread at a time; only one process writes at once, others wait."""
        with self._held() as database, database:
            database.execute(begin)
            yield database

    @contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """The connection for one thread. Raises StoreError for what SQLite cannot do."""
        try:
            with self._lock:
                yield self._database
        except sqlite3.Error as error:
            busy = "locked" in str(error)  # for longer than open_database waits
            mend = "end the other program that writes to it" if busy else "make room on its disk"
            raise StoreError(f"the history cannot be read or written ({error}): {mend}") from error


def _contains(text: str, wanted: str) -> bool:
    """Whether a text holds all words, capitals aside; SQLite's own LIKE knows ASCII's capitals alone."""
    folded = text.casefold()
    return all(word in folded for word in wanted.split())
