"""What the list's script gets from the server, and what it may ask for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ui.conversations.store import Store
from ui.pages.history.chat_list import LISTED, ChatList

REQUEST: Any = SimpleNamespace(headers={"accept-language": "en"})
GERMAN: Any = SimpleNamespace(headers={"accept-language": "de"})
Call = Callable[..., dict[str, Any]]


def server(store: Store, answering: str = "") -> Call:
    """Return a function that calls the server's, as the browser does: `call("rename", ids=[...])`."""
    component = ChatList(store, lambda _: "me", lambda owner: {answering} if owner == "me" else ()).component(
        on_chat_page=True
    )

    def call(name: str, /, **asked: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(component, f"{name}_chats")(REQUEST, asked)
        return answer

    return call


def chat(store: Store, question: str, owner: str = "me") -> str:
    key = store.create(owner)
    store.add(owner, key, None, "user", question)
    return key


def titles(answer: dict[str, Any], folder: str = "") -> list[str]:
    return [item["title"] for item in answer["view"]["sections"][folder]["items"]]


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_page_begins_with_the_view_and_the_texts_of_its_language(store: Store) -> None:
    chat(store, "Why?")
    store.create("me")
    chat_list = ChatList(store, lambda _: "me")
    first = chat_list.first(GERMAN, "")
    assert (first["language"], first["page"], first["texts"]["today"]) == ("de", LISTED, "Heute")
    assert first["texts"]["more"] == "{count} weitere zeigen"
    assert titles(first) == ["Neuer Chat", "Why?"]


def test_folders_are_closed_until_they_are_asked_for(store: Store) -> None:
    call = server(store)
    why, ships, boats = (chat(store, title) for title in ("Why?", "Ships", "Boats"))
    moved = call("move", ids=[ships, boats], name=" Sea ")
    assert titles(moved) == ["Why?"] and list(moved["view"]["sections"]) == [""]
    assert moved["view"]["folders"] == [{"name": "Sea", "count": 2}]
    opened = call("list", limits={"": 9, "Sea": 1, "Gone": 5}, current=boats)["view"]
    assert opened["folder"] == "Sea" and list(opened["sections"]) == ["", "Sea"]
    assert [item["id"] for item in opened["sections"]["Sea"]["items"]] == [boats]
    assert opened["sections"]["Sea"]["more"] == 1
    pinned = call("pin", ids=[ships, "gone"], pinned=True, limits={"": 9, "Sea": 9})
    assert titles(pinned) == ["Ships", "Why?"] and titles(pinned, "Sea") == ["Boats"]
    assert pinned["view"]["folders"] == [{"name": "Sea", "count": 1}]
    assert call("list", current=why)["view"]["folder"] == ""
    assert call("list", current="gone")["view"]["folder"] is None


def test_a_search_looks_into_all_folders_and_marks_the_words(store: Store) -> None:
    call = server(store)
    key = chat(store, "Where is the needle?")
    store.add("me", key, None, "assistant", "The **Needle** is in <b>hay</b>.")
    alone = chat(store, "needle hay")
    chat(store, "needle", "another")
    store.move("me", [key], "Barn")
    found = call("list", words="  NEEDLE hay ")["view"]["sections"][""]["items"]
    assert [(item["id"], item["folder"]) for item in found] == [(alone, ""), (key, "Barn")]
    assert found[0]["marked"] == ["", "needle", " ", "hay", ""] and found[0]["excerpt"] == [""]
    assert found[1]["marked"] == ["Where is the ", "needle", "?"]
    assert found[1]["excerpt"] == ["The **", "Needle", "** is in <b>", "hay", "</b>."]


def test_long_lists_come_in_parts(store: Store) -> None:
    call = server(store)
    for number in range(5):
        chat(store, str(number))
    part = call("list", limits={"": 3})
    assert titles(part) == ["4", "3", "2"] and part["view"]["sections"][""]["more"] == 2
    part = call("list", limits={"": 2}, words="3")
    assert titles(part) == ["3"] and part["view"]["sections"][""]["more"] == 0


def test_titles_deletions_and_exports(store: Store) -> None:
    call = server(store)
    key, other, foreign = chat(store, "Why?"), chat(store, "How?"), chat(store, "Mine", "another")
    assert titles(call("rename", ids=[key], name="Sky\n")) == ["How?", "Sky"]
    assert call("rename", ids=[foreign], name="x")["error"] == "This chat is not there any more."
    assert titles(call("delete", ids=[key, other, foreign])) == []
    assert titles(call("restore", ids=[key])) == ["Sky"]
    assert call("restore", ids=[foreign])["error"] == "This chat is not there any more."
    assert call("export", ids=[key])["file"]["name"] == "Sky.md"
    call("restore", ids=[other])
    both = call("export", ids=[key, other], kind="json")["file"]
    assert (both["name"], both["type"], both["content"].count('"title"')) == (
        "chats.json",
        "application/json",
        2,
    )
    assert call("export", ids=[key, foreign])["error"] == "This chat is not there any more."
    assert [found.title for found in store.list("another")] == ["Mine"]


def test_a_chat_whose_answer_is_under_way_is_marked(store: Store) -> None:
    key, other = chat(store, "Why?"), chat(store, "How?")
    items = server(store, answering=key)("list")["view"]["sections"][""]["items"]
    assert {item["id"]: item["live"] for item in items} == {key: True, other: False}


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"words": 5}, "words: "),
        ({"words": "x" * 1001}, "words: .*at most 1000"),
        ({"limits": {"": -1}}, "limits.*greater than or equal to 0"),
        ({"limits": {"": "9"}}, "limits.*valid integer"),
        ({"ids": ["x"] * 10_001}, "ids: .*at most 10000"),
        ({"ids": [None]}, "ids.0: .*valid string"),
        ({"kind": "exe"}, "kind: .*'markdown' or 'json'"),
        ({"more": 1}, "more: Extra"),
    ],
)
def test_what_no_script_of_ours_asks_is_refused_in_one_line(
    store: Store, asked: dict[str, Any], error: str
) -> None:
    answer = server(store)("list", **asked)
    assert list(answer) == ["error"] and "\n" not in answer["error"]
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(answer["error"])


def test_a_locked_history_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    store = Store(tmp_path / "history.sqlite")
    key, call = chat(store, "Why?"), server(store)
    with closing(sqlite3.connect(tmp_path / "history.sqlite", isolation_level=None)) as backup:
        backup.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in call("rename", ids=[key], name="Sky")["error"]
    assert titles(call("rename", ids=[key], name="Sky")) == ["Sky"]
