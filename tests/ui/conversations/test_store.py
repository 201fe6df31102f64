"""The history in SQLite: branches, owners, search, crashes."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ui.conftest import until
from ui.conversations.model import INTERRUPTED, GenerationInfo, Tree
from ui.conversations.store import BUSY_SECONDS, NotFound, Store, StoreError

ME, YOU = "user:me", "visitor:you"
MADE = GenerationInfo(
    "Bob", "ab12", "Q4_K_M", "Be brief.", {"top_k": 40, "stop": ["\n"]}, "stop", 9, 3, 7, 0.2, 1.5, 2
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "history" / "chats.sqlite")
    yield opened
    opened.close()


def chat(store: Store, owner: str = ME, question: str = "Why?", answer: str = "So.") -> tuple[str, int, int]:
    """Add a conversation with a question and its answer; return the ids of all three."""
    key = store.create(owner)
    asked = store.add(owner, key, None, "user", question)
    return key, asked, store.add(owner, key, asked, "assistant", answer, made=MADE)


def shown(store: Store, key: str, owner: str = ME) -> list[str]:
    return [node.text for node in store.load(owner, key).tree.path()]


def test_a_conversation_is_kept_with_all_that_is_known_of_it(store: Store) -> None:
    key, asked, answered = chat(store)
    store.rate(ME, key, answered, "dislike", "too short")
    kept = store.load(ME, key)
    question, answer = kept.tree.path()
    assert (question.id, question.parent, question.role, question.made) == (asked, None, "user", None)
    assert (answer.id, answer.parent, answer.role, answer.text) == (answered, asked, "assistant", "So.")
    assert (answer.made, answer.opinion, answer.note) == (MADE, "dislike", "too short")
    assert kept.created <= question.created <= answer.created == kept.updated


def test_an_answer_grows_and_ends(store: Store) -> None:
    key = store.create(ME)
    asked = store.add(ME, key, None, "user", "Why?")
    node = store.add(ME, key, asked, "assistant", "")
    store.write(ME, key, node, "Bec")
    assert store.load(ME, key).tree.nodes[node].made is None
    store.write(ME, key, node, "Because.", MADE)
    assert store.load(ME, key).tree.nodes[node].made == MADE and shown(store, key) == ["Why?", "Because."]
    with pytest.raises(NotFound):
        store.write(ME, key, asked, "a question is nobody's to rewrite")


def test_branches_stay_and_any_may_be_shown(store: Store) -> None:
    key, asked, first = chat(store)
    second = store.add(ME, key, asked, "assistant", "Thus.")
    edited = store.add(ME, key, None, "user", "How?")
    assert shown(store, key) == ["How?"]
    store.select(ME, key, second)
    assert shown(store, key) == ["Why?", "Thus."]
    store.select(ME, key, None)
    assert shown(store, key) == []
    tree = store.load(ME, key).tree
    assert tree.versions(first) == [first, second] and tree.versions(asked) == [asked, edited]


def test_a_cut_shows_the_youngest_branch_that_is_left_or_the_parent(store: Store) -> None:
    key, asked, first = chat(store)
    below = store.add(ME, key, first, "user", "And?")
    second = store.add(ME, key, asked, "assistant", "Thus.")
    store.delete_subtree(ME, key, second)
    assert shown(store, key) == ["Why?", "So.", "And?"]
    other = store.add(ME, key, asked, "assistant", "Hence.")
    store.select(ME, key, below)
    store.delete_subtree(ME, key, other)  # it was not shown: nothing moves
    assert shown(store, key) == ["Why?", "So.", "And?"]
    store.delete_subtree(ME, key, first)
    assert shown(store, key) == ["Why?"] and set(store.load(ME, key).tree.nodes) == {asked}
    store.delete_subtree(ME, key, asked)
    assert shown(store, key) == [] and store.load(ME, key).tree.leaf is None


def test_long_conversations_are_cut_and_deleted(store: Store) -> None:
    key, asked, parent = chat(store)
    for number in range(1100):  # SQLite's own cascades end at 1,000
        parent = store.add(ME, key, parent, "user", str(number))
    store.delete_subtree(ME, key, asked)
    assert store.load(ME, key).tree.nodes == {}
    store.delete(ME, key)
    assert store.list(ME) == ()


FOREIGN: dict[str, Callable[[Store, str, int], object]] = {
    "load": lambda store, key, node: store.load(YOU, key),
    "summary": lambda store, key, node: store.summary(YOU, key),
    "add": lambda store, key, node: store.add(YOU, key, node, "user", "x"),
    "write": lambda store, key, node: store.write(YOU, key, node, "x", MADE),
    "select": lambda store, key, node: store.select(YOU, key, node),
    "rate": lambda store, key, node: store.rate(YOU, key, node, "like"),
    "delete_subtree": lambda store, key, node: store.delete_subtree(YOU, key, node),
    "rename": lambda store, key, node: store.rename(YOU, key, "x"),
    "pin": lambda store, key, node: store.pin(YOU, key, True),
    "delete": lambda store, key, node: store.delete(YOU, key),
}


@pytest.mark.parametrize("call", FOREIGN)
def test_nobody_reads_or_changes_what_is_not_theirs(store: Store, call: str) -> None:
    key, _, node = chat(store)
    mine, _, _ = chat(store, YOU)
    before = store.load(ME, key)
    with pytest.raises(NotFound):
        FOREIGN[call](store, key, node)
    if call not in ("load", "summary", "rename", "pin", "delete"):
        with pytest.raises(NotFound):  # a message of mine, by way of a conversation of yours
            FOREIGN[call](store, mine, node)
    assert store.load(ME, key) == before


def test_lists_and_deleting_all_are_each_owners_own(store: Store) -> None:
    key, _, _ = chat(store, question="the needle")
    chat(store, YOU)
    assert store.list(YOU, "needle") == ()
    store.delete_all(YOU)
    assert store.list(YOU) == () and [found.id for found in store.list(ME)] == [key]


def test_the_list_has_pinned_ones_first_then_the_latest(store: Store) -> None:
    old, middle, new = (chat(store, question=name)[0] for name in ("old", "middle", "new"))
    assert [found.title for found in store.list(ME)] == ["new", "middle", "old"]
    store.pin(ME, old, True)
    store.add(ME, middle, None, "user", "again")
    assert [(found.id, found.pinned) for found in store.list(ME)] == [
        (old, True),
        (middle, False),
        (new, False),
    ]


@pytest.mark.parametrize("search", ["GRÜSSE", "  grüsse ", "an den", "kater an", "100%", "猫", "titel"])
def test_search_finds_words_in_messages_and_titles(store: Store, search: str) -> None:
    key, _, _ = chat(store, question="Bitte", answer="Grüße an den Kater 猫, zu 100%")
    store.rename(ME, key, "Mein TITEL")
    chat(store, answer="an dem _ und 1000")
    assert [found.id for found in store.list(ME, search)] == [key]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("  Why is\n\tthe sky   blue? ", "Why is the sky blue?"),
        ("word " * 40, "word word word word word word word word word word word word…"),
        ("猫" * 100, "猫" * 59 + "…"),
        ('__i18n__{"key":"page.settings"}', 'i18n{"key":"page.settings"}'),
        ("\x00a\x1b[31m\ud800b", "a [31m b"),
    ],
)
def test_the_first_question_gives_the_title(store: Store, text: str, title: str) -> None:
    key, _, _ = chat(store, question=text)
    store.add(ME, key, None, "user", "another")
    assert store.load(ME, key).title == title and len(title) <= 60
    store.rename(ME, key, "mine\nown")
    store.rename(ME, key, " ")
    assert store.load(ME, key).title == "mine own"


def test_a_copy_has_ids_of_its_own(store: Store) -> None:
    key, asked, first = chat(store)
    store.add(ME, key, asked, "assistant", "Thus.")
    store.select(ME, key, first)
    (copy,) = store.insert(YOU, [store.load(ME, key)])
    theirs, mine = store.load(YOU, copy), store.load(ME, key)
    assert shown(store, copy, YOU) == ["Why?", "So."] and len(theirs.tree.nodes) == 3
    assert not set(theirs.tree.nodes) & set(mine.tree.nodes) and theirs.title == mine.title
    assert [node.made for node in theirs.tree.path()] == [None, MADE]


def test_copies_are_all_made_or_none(store: Store) -> None:
    key, _, node = chat(store)
    whole = store.load(ME, key)
    torn = replace(whole, tree=Tree({node: whole.tree.nodes[node]}, node))  # an answer without its question
    with pytest.raises(KeyError):
        store.insert(YOU, [whole, torn])
    assert store.list(YOU) == ()


def test_who_reads_does_not_wait_for_another_process_that_writes(store: Store, tmp_path: Path) -> None:
    key, _, _ = chat(store)
    (name,) = {file for file in (tmp_path / "history").iterdir() if file.suffix == ".sqlite"}
    with closing(sqlite3.connect(name, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store._connection.execute("PRAGMA busy_timeout = 1")
        assert shown(store, key) == ["Why?", "So."] and store.summary(ME, key) == store.list(ME)[0]
        with pytest.raises(StoreError, match=r"is locked\): end the other program"):
            store.pin(ME, key, True)


def test_threads_that_wait_for_another_process_wait_together(store: Store, tmp_path: Path) -> None:
    key, _, _ = chat(store)
    (name,) = {file for file in (tmp_path / "history").iterdir() if file.suffix == ".sqlite"}
    seconds: list[float] = []

    def pin() -> None:
        began = time.monotonic()
        with pytest.raises(StoreError, match="is locked"):
            store.pin(ME, key, True)
        seconds.append(time.monotonic() - began)

    with closing(sqlite3.connect(name, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        threads = [threading.Thread(target=pin) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seconds) == 8 and max(seconds) < 3 * BUSY_SECONDS


def test_many_threads_write_at_once(store: Store) -> None:
    keys = [store.create(ME) for _ in range(8)]

    def write(key: str) -> None:
        parent = store.add(ME, key, None, "user", "0")
        for number in range(1, 50):
            parent = store.add(ME, key, parent, "user", str(number))

    threads = [threading.Thread(target=write, args=[key]) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(shown(store, key) == [str(number) for number in range(50)] for key in keys)


WRITER = """
import sys
from pathlib import Path
from ui.conversations.store import Store
store = Store(Path(sys.argv[1]))
key = store.create("me")
asked = store.add("me", key, None, "user", "Count.")
node = store.add("me", key, asked, "assistant", "")
print(key, flush=True)
for number in range(1, 10**9):
    store.write("me", key, node, " ".join(map(str, range(number))))
    print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "chats.sqlite"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    key = child.stdout.readline().strip()
    for _ in range(200):
        child.stdout.readline()
    child.kill()
    done = child.stdout.read().splitlines()[-1:] or ["200"]  # the last write that returned
    child.wait()
    store = Store(path)
    question, answer = store.load("me", key).tree.path()
    assert question.text == "Count." and answer.made == INTERRUPTED
    assert len(answer.text.split()) - int(done[0]) in (0, 1)  # one more may have been under way
    store.close()
    reopened = Store(path)  # finding it again changes nothing
    assert reopened.load("me", key).tree.path() == [question, answer]
    reopened.close()


def test_what_is_deleted_is_gone_from_the_disk_and_no_other_account_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    store = Store(path)
    key, _, _ = chat(store, answer="a secret of mine")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    store.delete(ME, key)
    store.close()
    assert b"a secret of mine" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_history_in_memory_ends_with_the_store() -> None:
    store = Store()
    key, _, _ = chat(store)
    assert shown(store, key) == ["Why?", "So."]
    store.close()
    assert Store().list(ME) == ()


def test_files_that_are_not_ours_are_refused_and_left_alone(tmp_path: Path) -> None:
    newer, foreign, text = (tmp_path / name for name in ("newer", "foreign", "text"))
    Store(newer).close()
    for path, script in ((newer, "PRAGMA user_version = 2"), (foreign, "CREATE TABLE t (x)")):
        database = sqlite3.connect(path)
        database.execute(script)
        database.close()
    text.write_text("no database at all " * 100)
    for path, why in (
        (newer, r"newer GGUF Chat \(version 2, this one knows 1\): update"),
        (foreign, "another program's database: name another"),
        (text, r"cannot be opened \(file is not a database\): name another"),
        (tmp_path, "cannot be opened .*directory"),
    ):
        with pytest.raises(StoreError, match=why) as refused:
            Store(path)
        assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert sqlite3.connect(foreign).execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_an_owner_keeps_the_latest_and_what_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.conversations.store.MAX_CONVERSATIONS", 3)
    store = Store()
    foreign, pinned, *others = store.create("b"), *(store.create("a") for _ in range(2))
    store.pin("a", pinned, True)
    others += [store.create("a") for _ in range(3)]
    assert [found.id for found in store.list("a")] == [pinned, *others[:0:-1]]
    assert [found.id for found in store.list("b")] == [foreign]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in days, from which `time.time` reads."""
    days = [20_000.5]
    monkeypatch.setattr(time, "time", lambda: days[0] * 86_400)
    return days


def start(path: Path, *keys: str, owner: str = "visitor:x") -> list[bool]:
    """Start the server once; return which of the visitor's conversations are still there."""
    with closing(Store(path / "history.sqlite")) as store:
        left = {found.id for found in store.list(owner)}
    return [key in left for key in keys]


def test_visitors_of_long_ago_are_forgotten(tmp_path: Path, clock: list[float]) -> None:
    store = Store(tmp_path / "history.sqlite")
    owners = ("visitor:x", "user:anna", "local")
    for owner in owners:
        store.create(owner)
    pinned = store.create("visitor:x")
    store.pin("visitor:x", pinned, True)
    store.close()
    for _ in range(89):
        clock[0] += 1
        assert start(tmp_path) == []
    used = Store(tmp_path / "history.sqlite")
    assert [len(used.list(owner)) for owner in owners] == [2, 1, 1]
    for _ in range(2):  # a server that runs on
        clock[0] += 1
        used.create("visitor:y")
    assert [found.id for found in used.list("visitor:x")] == [pinned]
    assert [len(used.list(owner)) for owner in owners[1:]] == [1, 1]


@pytest.mark.parametrize("days", [100, 10_000, -10_000])
def test_one_clock_deletes_nothing(tmp_path: Path, clock: list[float], days: int) -> None:
    for _ in range(200):  # the server has been used for long
        start(tmp_path)
        clock[0] += 1
    with closing(Store(tmp_path / "history.sqlite")) as store:
        before = store.create("visitor:x")
        store.add("visitor:x", before, None, "user", "Why?")
    clock[0] += days
    assert start(tmp_path, before) == [True]
    with closing(Store(tmp_path / "history.sqlite")) as store:
        wrong = store.create("visitor:x")
        store.add("visitor:x", wrong, None, "user", "When?")
    assert start(tmp_path, before, wrong) == [True, True]
    clock[0] -= days
    for _ in range(89):
        clock[0] += 1
        assert start(tmp_path, before, wrong) == [True, True]


def test_who_comes_back_keeps_everything_for_as_long_again(tmp_path: Path, clock: list[float]) -> None:
    with closing(Store(tmp_path / "history.sqlite")) as store:
        key = store.create("visitor:x")
        node = store.add("visitor:x", key, None, "user", "Why?")
    for day in range(150):
        clock[0] += 1
        if day == 80:
            with closing(Store(tmp_path / "history.sqlite")) as store:
                store.add("visitor:x", key, node, "assistant", "So.")
        assert start(tmp_path, key) == [True]


def test_a_history_of_before_is_kept_for_as_long_again(tmp_path: Path, clock: list[float]) -> None:
    with closing(Store(tmp_path / "history.sqlite")) as store:
        key = store.create("visitor:x")
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as old:
        old.executescript("ALTER TABLE conversation DROP COLUMN idle_since; DROP TABLE served_day")
    clock[0] += 100
    for _ in range(89):
        clock[0] += 1
        assert start(tmp_path, key) == [True]
    clock[0] += 1
    start(tmp_path)
    clock[0] += 1
    assert start(tmp_path, key) == [False]


def test_what_is_in_the_trash_comes_back_whole_or_is_purged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "chats.sqlite")
    (key, asked, node), (other, _, _) = chat(store), chat(store, answer="a secret of mine")
    before = store.load(ME, key)
    assert store.trash(YOU, [key]) == () and store.trash(ME, [key, other, "nobody's"]) == (key, other)
    assert store.list(ME) == () and store.list(ME, "why") == () and store.trash(ME, [key]) == ()
    for call in FOREIGN.values():
        with pytest.raises(NotFound):
            call(store, key, asked)
    store.write(ME, key, node, "So it goes on.", MADE)  # an answer under way is not lost
    assert store.restore(YOU, [key]) == () and store.restore(ME, [key]) == (key,)
    assert shown(store, key) == ["Why?", "So it goes on."] and store.load(ME, key).created == before.created
    monkeypatch.setattr("ui.conversations.store.TRASH_SECONDS", 0.01)
    third, _, _ = chat(store)
    store.trash(ME, [third])
    until(lambda: rows(store) == 1)  # those before, too
    assert store.restore(ME, [other, third]) == () and [found.id for found in store.list(ME)] == [key]
    store.close()
    assert b"a secret of mine" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def rows(store: Store) -> int:
    """Count the stored conversations, with those in the trash."""
    with store._locked() as connection:
        return int(connection.execute("SELECT count(*) FROM conversation").fetchone()[0])


def test_closing_and_opening_empty_the_trash(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    store = Store(path)
    store.trash(ME, [chat(store)[0]])
    kept, _, _ = chat(store)
    store.close()
    with closing(sqlite3.connect(path)) as database:  # as a killed server leaves one
        assert database.execute("SELECT id FROM conversation").fetchall() == [(kept,)]
        database.execute("UPDATE conversation SET deleted = 1e18")
        database.commit()
    with closing(Store(path)) as store:
        assert rows(store) == 0


def test_the_trash_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.conversations.store.MAX_CONVERSATIONS", 2)
    store = Store()
    keys = [chat(store)[0] for _ in range(2)]
    store.trash(ME, keys[1:])
    assert store.remaining_quota(ME) == 1
    third, _, _ = chat(store)
    assert {found.id for found in store.list(ME)} == {keys[0], third}


def test_a_chat_is_in_one_folder_at_most(store: Store) -> None:
    (key, _, _), (other, _, _) = chat(store), chat(store, YOU)
    store.move(ME, [key, other], "Ships\nand  boats")
    assert [found.folder for found in (*store.list(ME), *store.list(YOU))] == ["Ships and boats", ""]
    (copy,) = store.insert(YOU, [store.load(ME, key)])
    assert store.load(YOU, copy).folder == "Ships and boats"
    store.move(ME, [key], " ")
    assert store.summary(ME, key).folder == ""


def test_a_history_of_before_has_no_folders_and_no_trash(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with closing(Store(path)) as store:
        key, _, _ = chat(store)
    with closing(sqlite3.connect(path)) as old:
        old.executescript(
            "ALTER TABLE conversation DROP COLUMN folder; ALTER TABLE conversation DROP COLUMN deleted"
        )
    with closing(Store(path)) as store:
        assert [(found.id, found.folder) for found in store.list(ME)] == [(key, "")]
        store.move(ME, [key], "Old")
        assert store.summary(ME, key).folder == "Old"


def test_a_search_quotes_the_latest_message_with_all_its_words(store: Store) -> None:
    key, asked, _ = chat(store, question="The needle?", answer="a needle in the hay")
    chat(store, question="needle alone")
    store.add(ME, key, asked, "assistant", "hay\n\nwith a **Needle**")
    (found,) = store.list(ME, "needle HAY")
    assert (found.id, found.excerpt) == (key, "hay with a **Needle**")
    store.rename(ME, key, "In the title alone")
    assert [found.excerpt for found in store.list(ME, "alone title")] == [""]
