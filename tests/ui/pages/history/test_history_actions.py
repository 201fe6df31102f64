"""Limits of imports: size, rate, and the number of stored conversations."""

from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from ui.auth.access import Access
from ui.conversations import json_transfer as transfer
from ui.conversations.json_transfer import to_json
from ui.conversations.store import Store
from ui.pages.history.events import HistoryActions

REQUEST: Any = SimpleNamespace(headers={}, session_hash="tab")


def import_chats(store: Store, file: Path, owner: str = "visitor:x", access: Access | None = None) -> str:
    """Import a file of three chats, and return the page's message."""
    admit = (lambda _: access.admit(owner, "")) if access else lambda _: nullcontext()
    do = HistoryActions(store, lambda _: owner, admit)
    return imported(do, file)


def imported(do: HistoryActions, file: Path) -> str:
    source = Store()
    chats = [source.create("a") for _ in range(3)]
    file.write_text(to_json(source.load("a", chat) for chat in chats), encoding="utf-8")
    note: gr.HTML = do.import_file(REQUEST, str(file))[0]
    assert not file.exists()
    return str(note.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chats.json"


def test_a_locked_history_is_said_in_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "history.sqlite")
    do, key = HistoryActions(store, lambda _: "local", lambda _: nullcontext()), store.create("local")
    with closing(sqlite3.connect(tmp_path / "history.sqlite", isolation_level=None)) as backup:
        backup.execute("BEGIN EXCLUSIVE")
        with pytest.raises(gr.Error, match="database is locked") as refused:
            do.delete_all(REQUEST)
    assert "\n" not in str(refused.value) and not refused.value.print_exception
    assert do.start(REQUEST, key) == key
    do.delete_all(REQUEST)
    assert do.start(REQUEST, key) == "" and store.list("local") == ()


def test_a_file_is_taken_in_whole_or_not_at_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.conversations.store.MAX_CONVERSATIONS", 5)
    store = Store()
    assert import_chats(store, file) == "3 imported."
    assert "there is room for 2" in import_chats(store, file)
    assert len(store.list("visitor:x")) == 3
    for _ in range(3):  # no limit on the user's own machine, and nothing is lost
        import_chats(store, file, "local")
        store.create("local")
    assert len(store.list("local")) == 12


def test_one_file_at_a_time_and_no_large_ones_but_on_the_own_machine(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES_REMOTE", 10)
    store = Store()
    assert "at most 10 are read" in import_chats(store, file)
    assert import_chats(store, file, "local") == "3 imported."
    do = HistoryActions(store, lambda _: "local", lambda _: nullcontext())
    with do._importing:
        assert "another file is being imported" in imported(do, file)
    assert imported(do, file) == "3 imported."


def test_an_import_counts_as_a_request(file: Path) -> None:
    store, access = Store(), Access(requests_per_minute=1)
    assert [import_chats(store, file, access=access)[:10] for _ in range(2)] == ["3 imported", "Nothing wa"]
