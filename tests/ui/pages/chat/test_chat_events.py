"""The chat's events in this process, without a browser: their updates, and the stored conversation."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from engine.errors import EngineStopped, QueueFull
from tests.ui.conftest import until
from tests.ui.fake_backend import INFO, FakeBackend
from tests.ui.pages.chat.tab import ME, OffLoopStore, Tab, event
from ui.auth.access import Access
from ui.generation import answering
from ui.generation import sessions as latest
from ui.models.weights_hash import WeightsHashes
from ui.pages.chat import generation_events as chat_events
from ui.pages.chat.navigation import TabView


def test_an_answer_is_kept_with_how_it_was_made() -> None:
    tab = Tab(FakeBackend("one two"))
    tab.send("Why?")
    asked, answered = tab.path()
    assert (asked.text, answered.text, tab.rows()) == ("Why?", "one two", ["Why?", "one two"])
    made = answered.made
    assert made is not None
    assert (made.reason, made.generated_tokens, made.model) == ("stop", 2, "fake")
    assert made.sampling["temperature"] == 0.7 and "grammar" not in made.sampling
    assert "12 of 2,048" in tab.page["meter"]
    assert "2 tokens" in tab.status


def test_undo_gives_a_question_back_and_redo_shows_it_again() -> None:
    tab = Tab(FakeBackend("one two"))
    tab.send("Why?")
    tab.send("And?")
    for node, question, left in ((0, "And?", ["Why?", "one two"]), (1, "Why?", [])):
        named = event(node=tab.items[0]["id"]) if node else event()
        tab.take(asyncio.run(tab.edits.undo(tab.request, named, *tab.inputs[:3])))
        assert (tab.box, tab.rows(), tab.page["redo"]) == (question, left, True)
        tab.take(asyncio.run(tab.edits.redo(tab.request, *tab.inputs[:3])))
        assert tab.rows() == ["Why?", "one two", "And?", "one two"] and not tab.page["redo"]
    before = tab.page
    tab.send("  ")
    assert tab.page is before and len(tab.backend.asked) == 2


def test_what_is_deleted_comes_back() -> None:
    tab = Tab(FakeBackend("one two"))
    tab.send("Why?")
    tab.send("And?")
    asked = event(node=tab.items[2]["id"])
    tab.take(asyncio.run(tab.edits.delete(tab.request, asked, *tab.inputs[:3])))
    assert tab.rows() == ["Why?", "one two"] and "2 messages" in tab.page["undo"]["text"]
    before = [item["id"] for item in tab.items]
    tab.take(asyncio.run(tab.edits.restore(tab.request, *tab.inputs[:3])))
    assert tab.rows() == ["Why?", "one two", "And?", "one two"] == [node.text for node in tab.path()]
    assert [item["id"] for item in tab.items][:2] == before
    tab.take(asyncio.run(tab.edits.restore(tab.request, *tab.inputs[:3])))
    assert len(tab.rows()) == 4, "it comes back once"
    tab.take(asyncio.run(tab.edits.delete(tab.request, event(node=10**6), *tab.inputs[:3])))
    assert len(tab.rows()) == 4 and "no longer there" in tab.status


def test_an_answer_is_edited_and_gone_on_from() -> None:
    tab = Tab(FakeBackend("one two"))
    tab.send("Why?")
    edited = event(node=tab.items[1]["id"], role="assistant", text="Because")
    asyncio.run(tab.follow(tab.events.edit(tab.request, edited, *tab.inputs)))
    assert tab.rows() == ["Why?", "Because"] and len(tab.backend.asked) == 1
    assert tab.items[1]["cut"] and len(tab.items[1]["versions"]) == 2 and "by hand" in tab.items[1]["stats"]
    tab.backend.answer = " of it"
    asyncio.run(tab.follow(tab.events.continue_answer(tab.request, *tab.inputs)))
    assert tab.rows() == ["Why?", "Because of it"] == [node.text for node in tab.path()]
    first = event(node=tab.items[1]["versions"][0])
    tab.take(asyncio.run(tab.edits.switch(tab.request, first, *tab.inputs[:3])))
    assert tab.rows() == ["Why?", "one two"]


def test_an_earlier_answer_gets_another_version() -> None:
    tab = Tab(FakeBackend("one two"))
    tab.send("Why?")
    tab.send("And?")
    tab.backend.answer = "other"
    again = event(node=tab.items[1]["id"])
    asyncio.run(tab.follow(tab.events.regenerate(tab.request, again, *tab.inputs)))
    assert tab.rows() == ["Why?", "other"] and len(tab.items[1]["versions"]) == 2
    old = event(node=tab.items[1]["versions"][0])
    tab.take(asyncio.run(tab.edits.switch(tab.request, old, *tab.inputs[:3])))
    assert tab.rows() == ["Why?", "one two", "And?", "one two"]


@pytest.mark.parametrize("data", [None, {}, {"node": "1"}, {"node": True}, {"text": 5}, {"node": -1}, [1]])
def test_what_a_client_makes_up_changes_nothing(data: Any) -> None:
    tab = Tab(FakeBackend("one two"))
    tab.send("Why?")
    made_up = gr.EventData(None, data)
    for act in (tab.edits.switch, tab.edits.delete, tab.edits.rate, tab.edits.save_note):
        tab.take(asyncio.run(act(tab.request, made_up, *tab.inputs[:3])))
    for begin in (tab.events.send, tab.events.edit):
        asyncio.run(tab.follow(begin(tab.request, made_up, *tab.inputs)))
    assert [node.text for node in tab.path()] == ["Why?", "one two"] == tab.rows()


def test_regenerate_edit_and_go_on() -> None:
    tab = Tab(FakeBackend("one two three four"))
    tab.values[2] = 2  # tokens at most
    tab.send("Why?")
    assert [node.text for node in tab.path()] == ["Why?", "one two"]
    tab.backend.answer = " three"
    asyncio.run(tab.follow(tab.events.continue_answer(tab.request, *tab.inputs)))
    last = tab.path()[-1]
    assert last.text == "one two three" and last.made is not None
    assert (last.made.reason, last.made.generated_tokens, last.made.prompt_tokens) == ("stop", 4, 10)
    assert "4 tokens" in tab.status
    assert [m["content"] for m in tab.backend.asked[1][0]] == ["Why?", "one two"]
    tab.backend.answer = "other"
    asyncio.run(tab.follow(tab.events.regenerate(tab.request, event(), *tab.inputs)))
    assert [node.text for node in tab.path()] == ["Why?", "other"]
    assert [m["content"] for m in tab.backend.asked[2][0]] == ["Why?"]
    edited = event(node=tab.items[0]["id"], text="Who?")
    asyncio.run(tab.follow(tab.events.edit(tab.request, edited, *tab.inputs)))
    assert tab.rows() == ["Who?", "other"]
    old = event(node=tab.items[0]["versions"][0])
    tab.take(asyncio.run(tab.edits.switch(tab.request, old, *tab.inputs[:3])))
    assert tab.rows() == ["Why?", "other"]


@pytest.mark.parametrize("error", [QueueFull("full"), EngineStopped("gone")])
def test_a_question_without_an_answer_comes_back(error: Any) -> None:
    tab = Tab(FakeBackend())
    tab.backend.refuse = error
    tab.send("Why?")
    assert tab.store.list(ME) == () and tab.rows() == []
    assert tab.box == "Why?" and "error" in tab.status
    tab.backend.refuse = None
    tab.values[1] = 99.0
    tab.send("Why?")
    assert "temperature=99.0" in tab.status and not tab.backend.asked
    tab.values[1] = 0.7
    tab.send("x" * 1_000_001)
    assert "1,000,001 characters" in tab.status and tab.store.list(ME) == ()


def test_what_a_limit_refuses_is_written_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest, "MAX_ENTRIES", 1)
    monkeypatch.setattr(chat_events, "READY_SECONDS", 0)
    tab = Tab(FakeBackend("one"), access=Access(requests_per_minute=2))
    for session in "abc":  # a client that asks without waiting for an answer
        tab.request = cast(gr.Request, SimpleNamespace(session_hash=session, headers={}))
        asked = asyncio.run(
            tab.events.send(tab.request, event(text="Why?"), TabView(), "", None, *tab.values)
        )
    assert len(tab.store.list(ME)) == 2
    page = asked[tab.panel.messages.chat]
    assert page["box"] == "Why?" and "2 requests a minute" in page["status"]["text"]
    assert len(tab.events._ready) == 1 >= len(tab.readers)


def test_an_error_on_the_way_keeps_what_there_is_and_it_can_go_on() -> None:
    tab = Tab(FakeBackend("half an", error=EngineStopped("the engine died")))
    tab.send("Why?")
    last = tab.path()[-1]
    assert last.text == "half an" and last.made is not None and last.made.reason == "error"
    assert "the engine died" in tab.status and tab.items[-1]["cut"]


def test_a_kill_loses_no_more_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "SAVE_SECONDS", 0.0)
    tab = Tab(FakeBackend("word " * 50, pause=0.01))

    async def killed() -> None:
        updates = tab.updates(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        async for _ in updates:
            kept = (await asyncio.to_thread(tab.path))[-1]
            if kept.role == "assistant" and "word word" in kept.text:
                assert kept.made is not None and kept.made.reason == "interrupted" and kept.made.model
                break
        await updates.aclose()
        await tab.events.stop(tab.request)
        while tab.answers.under_way(ME):
            await asyncio.sleep(0.01)

    asyncio.run(killed())
    assert tab.path()[-1].made.reason == "cancelled"  # type: ignore[union-attr]


def test_stop_before_the_first_word_keeps_the_question_to_be_answered() -> None:
    tab = Tab(FakeBackend("never", pause=0.05))

    async def stopped() -> None:
        task = asyncio.ensure_future(
            tab.follow(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        )
        await asyncio.sleep(0.06)
        await tab.events.stop(tab.request)
        await task

    asyncio.run(stopped())
    assert [node.text for node in tab.path()] == ["Why?"]
    assert tab.page["answer"]
    tab.backend.pause = 0.0
    asyncio.run(tab.follow(tab.events.regenerate(tab.request, event(), *tab.inputs)))
    assert tab.rows() == ["Why?", "never"]


def test_a_question_that_is_quicker_than_its_page_is_answered() -> None:
    tab = Tab(FakeBackend("one two", pause=0.02))
    asyncio.run(tab.events.close(tab.request))  # the tab is now unknown, as before its page has loaded

    async def quick() -> None:
        task = asyncio.ensure_future(
            tab.follow(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        )
        await asyncio.sleep(0.02)
        tab.take(await tab.events.open(tab.request, ""))
        while not (listed := await asyncio.to_thread(tab.store.list, ME)):
            await asyncio.sleep(0.01)
        tab.take(await tab.events.open(tab.request, listed[0].id))  # as the history list does
        await task

    asyncio.run(quick())
    assert tab.rows() == ["Why?", "one two"]


def test_a_chat_that_another_tab_deletes_ends_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "SAVE_SECONDS", 0.0)
    tab = Tab(FakeBackend("word " * 500, pause=0.01))

    async def deleted() -> None:
        async for _ in tab.updates(tab.events.send(tab.request, event(text="Why?"), *tab.inputs)):
            if tab.growing["item"]:
                await asyncio.to_thread(tab.store.delete_all, ME)

    asyncio.run(deleted())
    assert tab.rows() == [] and "no longer there" in tab.status
    assert tab.backend.streams[0].cancelled


def test_an_answer_that_a_full_disk_does_not_take_is_shown_all_the_same() -> None:
    tab = Tab(FakeBackend("word " * 5000))
    tab.values[2] = 5000  # tokens at most
    tab.send("Why?")
    (pages,) = tab.store._connection.execute("PRAGMA page_count").fetchone()
    tab.store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    tab.send("And?")
    assert tab.rows()[3].startswith("word word") and "disk is full" in tab.status
    assert not tab.answers._tasks
    tab.send("x" * 100_000)  # not even the question can be stored
    assert tab.box and "disk is full" in tab.status


async def longest_pause(work: Awaitable[None]) -> float:
    """Do the work; return the longest time in seconds for which the event loop did nothing else meanwhile."""
    task, longest, last = asyncio.ensure_future(work), 0.0, time.monotonic()
    while not task.done():
        await asyncio.wait({task}, timeout=0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await task
    return longest


def test_a_history_that_another_program_locks_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "SAVE_SECONDS", 0.1)
    file = tmp_path / "history.sqlite"
    tab = Tab(FakeBackend("word " * 60, pause=0.02), OffLoopStore(file))
    with closing(sqlite3.connect(file, isolation_level=None)) as backup:
        seen: list[str] = []

        async def answered(lock_at: int, unlock_at: int) -> None:
            async for _ in tab.updates(tab.events.send(tab.request, event(text="Why?"), *tab.inputs)):
                seen.append(tab.rows()[-1])
                words = seen[-1].count("word")
                if words >= lock_at and words < unlock_at and not backup.in_transaction:
                    backup.execute("BEGIN EXCLUSIVE")
                elif words >= unlock_at and backup.in_transaction:
                    backup.rollback()

        assert asyncio.run(longest_pause(answered(lock_at=5, unlock_at=40))) < 0.8
        assert tab.rows()[1].split() == ["word"] * 60 == tab.path()[1].text.split()  # the last save counts
        seen.clear()
        assert asyncio.run(longest_pause(answered(lock_at=5, unlock_at=1000))) < 0.8
        assert len(set(seen)) > 8  # the answer goes on
        assert tab.rows()[3].split() == ["word"] * 60 and "database is locked" in tab.status
        assert "saving it is tried again" in tab.status
        assert (
            asyncio.run(
                longest_pause(tab.follow(tab.events.send(tab.request, event(text="Who?"), *tab.inputs)))
            )
            < 0.8
        )
        assert "database is locked" in tab.status and tab.box == "Who?"
        backup.rollback()
    tab.send("Who?")
    assert tab.path()[-1].text.split() == ["word"] * 60


async def ask_and_lock(tab: Tab, backup: sqlite3.Connection) -> None:
    """Ask a question, and lock the history from the answer's first word on."""
    async for _ in tab.updates(tab.events.send(tab.request, event(text="Why?"), *tab.inputs)):
        if "word" in tab.rows()[-1] and not backup.in_transaction:
            backup.execute("BEGIN EXCLUSIVE")


def test_an_answer_whose_last_save_fails_is_saved_once_the_lock_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "RETRY_SECONDS", (0.01,) * 200)
    file = tmp_path / "history.sqlite"
    tab = Tab(FakeBackend("word " * 20, pause=0.01), OffLoopStore(file))

    async def asked() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as backup:
            await ask_and_lock(tab, backup)
            assert "database is locked" in tab.status
            backup.rollback()
        while (await asyncio.to_thread(tab.path))[1].text.split() != ["word"] * 20:
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(asked(), 20))
    made = tab.path()[1].made
    assert made is not None and made.reason == "stop"


def test_what_was_written_after_a_failed_save_is_not_overwritten_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "RETRY_SECONDS", (0.2,) * 5)
    file = tmp_path / "history.sqlite"
    store = OffLoopStore(file)
    tab = Tab(FakeBackend("word " * 20, pause=0.01), store)

    async def asked() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as backup:
            await ask_and_lock(tab, backup)
            backup.rollback()
            path = await asyncio.to_thread(tab.path)
            backup.execute("UPDATE node SET text = 'other words' WHERE id = ?", [path[1].id])
        await asyncio.sleep(0.6)

    asyncio.run(asyncio.wait_for(asked(), 20))
    assert tab.path()[1].text == "other words"


def test_an_answer_whose_reader_went_away_is_saved_later_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "RETRY_SECONDS", (0.01,) * 200)
    file = tmp_path / "history.sqlite"
    tab = Tab(FakeBackend("word " * 20, pause=0.01), OffLoopStore(file))

    async def asked() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as backup:
            async with aclosing(
                tab.updates(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
            ) as updates:
                async for _ in updates:
                    if tab.rows()[-1].count("word") > 3:
                        backup.execute("BEGIN EXCLUSIVE")
                        break
            await asyncio.sleep(1.5)  # the save has failed
            backup.rollback()
        while len((await asyncio.to_thread(tab.path))[1].text.split()) < 3:
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(asked(), 20))


def test_an_opinion_and_its_note_are_kept() -> None:
    tab = Tab(FakeBackend("<think>hm</think>So."))
    tab.send("Why?")
    node = tab.items[1]["id"]
    rated = event(node=node, opinion="dislike")
    tab.take(asyncio.run(tab.edits.rate(tab.request, rated, *tab.inputs[:3])))
    assert tab.items[1]["opinion"] == "dislike" and tab.items[1]["ask_note"]
    noted = event(node=node, text=" wrong ")
    tab.take(asyncio.run(tab.edits.save_note(tab.request, noted, *tab.inputs[:3])))
    assert (tab.path()[-1].opinion, tab.path()[-1].note) == ("dislike", "wrong")
    assert not tab.items[1]["ask_note"]
    tab.take(asyncio.run(tab.edits.rate(tab.request, event(node=node), *tab.inputs[:3])))
    assert tab.path()[-1].opinion is None and not tab.items[1]["ask_note"]


def test_a_server_that_was_restarted_goes_on_with_the_tabs_conversation() -> None:
    tab = Tab(FakeBackend("one"))
    tab.send("Why?")
    tab.now[tab.panel.view] = TabView()  # the state of an old page in a new process
    tab.send("And?")
    assert [node.text for node in tab.path()] == ["Why?", "one", "And?", "one"]


def test_the_hash_of_the_weights_is_kept_once_it_is_known(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUF_CHAT_CACHE", str(tmp_path))
    weights, hashes = tmp_path / "a.gguf", WeightsHashes()
    info, known = replace(INFO, path=str(weights)), "ba7816bf"
    before, after = FakeBackend(info=info), FakeBackend(info=info)
    weights.write_bytes(b"abc")
    until(lambda: hashes.of(before))
    assert hashes.of(before).startswith(known)
    assert len(list(tmp_path.glob("sha256-*"))) == 1
    monkeypatch.setenv("GGUF_CHAT_CACHE", str(weights / "no-folder"))  # a cache folder that cannot be written
    weights.write_bytes(b"another export under the same name")
    until(lambda: hashes.of(after))
    assert not hashes.of(after).startswith(known) and hashes.of(before).startswith(known)
