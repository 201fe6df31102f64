"""Answers that belong to their conversation: they go on without a tab, and several tabs can show them."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from engine.errors import EngineStopped, QueueFull
from tests.ui.fake_backend import FakeBackend
from tests.ui.pages.chat.tab import ME, Tab, event
from ui.auth.access import Access
from ui.conversations.model import Node
from ui.generation import running
from ui.generation.running import RunningAnswers
from ui.pages.chat.navigation import TabView

SLOW = 0.01  # seconds between two words


def another(tab: Tab, session: str = "other") -> Tab:
    """Return another tab of the same page: another browser's, or the same one's after a reload."""
    other = copy.copy(tab)
    other.request = cast(gr.Request, SimpleNamespace(session_hash=session, headers={}))
    other.now = {tab.panel.view: TabView(), tab.panel.current: ""}
    other.items, other.growing = [], {"item": None, "status": None}
    return other


async def opened(tab: Tab, key: str) -> bool:
    """Open a chat; return whether the tab was told to follow an answer."""
    update = await tab.events.open(tab.request, key)
    tab.take(update)
    return bool(update[tab.panel.messages.chat].get("follow"))


async def followed(tab: Tab) -> None:
    """Run the two events that show an answer under way."""
    async with aclosing(tab.events.stream(tab.request)) as growing:
        async for update in growing:
            tab.take(update)
    tab.take(await tab.events.finish(tab.request))


async def until_true(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def asking(tab: Tab, question: str = "Why?") -> AsyncIterator[str]:
    """Ask, and go on with the chat's id when the tab shows the first words."""
    task = asyncio.ensure_future(tab.follow(tab.events.send(tab.request, event(text=question), *tab.inputs)))
    await until_true(lambda: tab.rows()[-1:] and "word" in tab.rows()[-1])
    yield tab.now[tab.panel.current]
    await asyncio.wait_for(task, 10)


async def nodes(tab: Tab, key: str) -> list[Node]:
    conversation = await tab.store.off_loop(tab.store.load, ME, key)
    return conversation.tree.path()


def run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def words(count: int) -> str:
    return " ".join(["word"] * count)


def is_idle(tab: Tab) -> bool:
    return tab.is_idle


def test_another_chat_and_back() -> None:
    tab = Tab(FakeBackend(words(60), SLOW))

    async def turned() -> None:
        async with asking(tab) as key:
            assert not await opened(tab, "")
            assert tab.rows() == [] and tab.answers.under_way(ME) == {key} and is_idle(tab)
        assert tab.rows() == [] and not tab.backend.streams[0].cancelled
        assert await opened(tab, key)
        assert not is_idle(tab)
        await followed(tab)
        assert tab.rows() == ["Why?", words(60)] and "60 tokens" in tab.status and is_idle(tab)
        assert not await opened(tab, key) and tab.answers.under_way(ME) == frozenset()

    run(turned())
    made = tab.path()[-1].made
    assert made is not None and made.reason == "stop"


def test_a_reload_shows_the_answer_at_once_and_as_it_grows() -> None:
    tab = Tab(FakeBackend(words(80), SLOW))

    async def reloaded() -> None:
        task = asyncio.ensure_future(
            tab.follow(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        )
        await until_true(lambda: tab.rows()[-1:] and tab.rows()[-1].count("word") > 20)
        key, seen = tab.now[tab.panel.current], tab.rows()[-1].count("word")
        task.cancel()  # the tab's connection ends
        await tab.events.close(tab.request)
        fresh = another(tab)
        assert await opened(fresh, key)
        counts = []
        async with aclosing(fresh.events.stream(fresh.request)) as growing:
            async for update in growing:
                fresh.take(update)
                if fresh.panel.messages.growing in update and fresh.growing["item"]:
                    counts.append(fresh.rows()[-1].count("word"))
        assert counts[0] >= seen and counts == sorted(counts) and len(set(counts)) > 3
        fresh.take(await fresh.events.finish(fresh.request))
        assert fresh.rows() == ["Why?", words(80)] and is_idle(fresh)

    run(reloaded())
    assert len(tab.backend.streams) == 1


def test_two_tabs_show_one_answer_and_either_stops_it() -> None:
    tab = Tab(FakeBackend(words(2000), SLOW))
    tab.values[2] = 2000  # tokens at most
    other = another(tab)

    async def both() -> None:
        async with asking(tab) as key:
            assert await opened(other, key)
            second = asyncio.ensure_future(followed(other))
            await until_true(lambda: other.rows()[-1].count("word") > 10)
            kept = await other.events.send(other.request, event(text="And?"), *other.inputs)
            assert kept[other.panel.messages.chat]["box"] == "And?"
            await other.events.stop(other.request)
            await second
        for one in (tab, other):
            assert is_idle(one) and "Stopped" in one.status, one.status
        assert tab.rows() == other.rows() and tab.backend.streams[0].cancelled

    run(both())
    assert len(tab.backend.asked) == 1 and tab.path()[0].text == "Why?"


def test_another_chat_is_asked_meanwhile_and_both_are_answered() -> None:
    tab = Tab(FakeBackend(words(40), SLOW))

    async def asked() -> None:
        async with asking(tab) as first:
            await opened(tab, "")
            async with asking(tab, "And?") as second:
                assert tab.answers.under_way(ME) == {first, second}
        await until_true(lambda: not tab.answers.under_way(ME))
        assert tab.rows() == ["And?", words(40)]
        for key, question in ((first, "Why?"), (second, "And?")):
            assert [node.text for node in await nodes(tab, key)] == [question, words(40)]

    run(asked())


def test_a_question_that_a_tab_turns_away_from_at_once_is_answered() -> None:
    tab = Tab(FakeBackend("one"))

    async def turned() -> None:
        with tab.store._lock:
            sent = asyncio.ensure_future(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
            await asyncio.sleep(0)  # it waits for the store now
            tab.take(await tab.events.open(tab.request, ""))
        assert await sent == tab.panel.no_update()
        await until_true(lambda: not tab.answers.under_way(ME))
        (chat,) = await tab.store.off_loop(tab.store.list, ME)
        assert [node.text for node in await nodes(tab, chat.id)] == ["Why?", "one"]

    run(turned())
    assert tab.rows() == []


def test_an_opened_chat_whose_answer_has_not_begun_is_followed() -> None:
    tab = Tab(FakeBackend(words(3), pause=0.05))

    async def early() -> None:
        begun = asyncio.ensure_future(
            tab.follow(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        )
        await until_true(lambda: tab.now[tab.panel.current])
        fresh = another(tab)
        assert await opened(fresh, tab.now[tab.panel.current])
        assert fresh.rows() == ["Why?"] and not is_idle(fresh)
        assert not fresh.page["answer"]
        await asyncio.gather(begun, followed(fresh))
        assert fresh.rows() == ["Why?", words(3)] == tab.rows()

    run(early())


def test_a_continued_answer_is_followed_from_its_first_word() -> None:
    tab = Tab(FakeBackend("one two"))
    tab.values[2] = 2
    tab.send("Why?")
    tab.values[2] = 100
    tab.backend.answer, tab.backend.pause = f" {words(50)}", SLOW

    async def continued() -> None:
        task = asyncio.ensure_future(tab.follow(tab.events.continue_answer(tab.request, *tab.inputs)))
        await until_true(lambda: "word" in tab.rows()[-1])
        fresh = another(tab)
        assert await opened(fresh, tab.now[tab.panel.current])
        await followed(fresh)
        await task
        assert fresh.rows()[1].startswith("one two word") and len(fresh.rows()) == 2

    run(continued())


def test_an_answer_is_continued_once_by_two_tabs() -> None:
    tab = Tab(FakeBackend("one two"))
    tab.values[2] = 2
    tab.send("Why?")
    tab.values[2] = 100
    tab.backend.answer, tab.backend.pause = f" {words(50)}", SLOW
    other = another(tab)

    async def continued() -> None:
        await opened(other, tab.now[tab.panel.current])
        first = asyncio.ensure_future(tab.follow(tab.events.continue_answer(tab.request, *tab.inputs)))
        await until_true(lambda: "word" in tab.rows()[-1])
        await other.follow(other.events.continue_answer(other.request, *other.inputs))
        await first

    run(continued())
    assert len(tab.backend.streams) == 2, "the first answer, and one continuation"
    assert tab.rows() == other.rows() == ["Why?", f"one two {words(50)}"]


def test_an_error_in_the_middle_is_told_in_every_tab() -> None:
    tab = Tab(FakeBackend(words(40), SLOW, error=EngineStopped("the engine died")))
    other = another(tab)

    async def failed() -> None:
        async with asking(tab) as key:
            assert await opened(other, key)
            await followed(other)

    run(failed())
    for one in (tab, other):
        assert one.rows() == ["Why?", words(40)] and is_idle(one)
        assert "the engine died" in one.status


def test_a_tab_stops_an_answer_that_it_has_only_just_opened() -> None:
    tab = Tab(FakeBackend(words(500), SLOW))
    fresh = another(tab)

    async def stopped() -> None:
        async with asking(tab) as key:
            assert await opened(fresh, key)
            await fresh.events.stop(fresh.request)  # before it follows
            await followed(fresh)

    run(stopped())
    assert tab.backend.streams[0].cancelled and fresh.rows() == tab.rows()
    assert is_idle(fresh) and "Stopped" in fresh.status


@pytest.mark.parametrize("act", ["edit", "regenerate", "undo", "delete", "switch"])
def test_what_changes_the_chat_stops_its_answer(act: str) -> None:
    tab = Tab(FakeBackend(words(500), SLOW))
    fresh = another(tab)

    async def changed() -> None:
        async with asking(tab) as key:
            assert await opened(fresh, key)
            following = asyncio.ensure_future(followed(fresh))
            await until_true(lambda: "word" in fresh.rows()[-1])
            tab.backend.answer = "end"
            if act == "edit":
                edited = event(node=fresh.items[0]["id"], text="Who?")
                await fresh.follow(fresh.events.edit(fresh.request, edited, *fresh.inputs))
            elif act == "regenerate":
                await fresh.follow(fresh.events.regenerate(fresh.request, event(), *fresh.inputs))
            elif act == "undo":
                fresh.take(await fresh.edits.undo(fresh.request, event(), *fresh.inputs[:3]))
            elif act == "delete":
                answer = event(node=fresh.items[-1]["id"])
                fresh.take(await fresh.edits.delete(fresh.request, answer, *fresh.inputs[:3]))
            else:
                question = event(node=fresh.items[0]["id"])
                fresh.take(await fresh.edits.switch(fresh.request, question, *fresh.inputs[:3]))
            await following
        assert tab.backend.streams[0].cancelled
        expected = {
            "edit": ["Who?", "end"],
            "regenerate": ["Why?", "end"],
            "undo": [],
            "delete": ["Why?"],
        }.get(act)
        assert expected is None or fresh.rows() == expected

    run(changed())


@pytest.mark.parametrize("prefill", [True, False])
def test_a_deleted_chat_ends_its_answer(monkeypatch: pytest.MonkeyPatch, prefill: bool) -> None:
    monkeypatch.setattr(running, "WATCH_SECONDS", 0.02)
    tab = Tab(FakeBackend(words(500), 60 if prefill else SLOW))

    async def deleted() -> None:
        task = asyncio.ensure_future(
            tab.follow(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        )
        await until_true(lambda: tab.backend.streams and (prefill or "word" in "".join(tab.rows())))
        key = tab.now[tab.panel.current]
        await opened(tab, "")  # from another chat
        await tab.store.off_loop(tab.store.delete, ME, key)
        await until_true(lambda: not tab.answers.under_way(ME))
        assert tab.backend.streams[0].cancelled
        await task

    run(deleted())
    assert tab.store.list(ME) == () and tab.rows() == []


def test_a_tab_whose_connection_ended_follows_again_and_stops_before() -> None:
    tab = Tab(FakeBackend(words(500), SLOW))

    async def lost() -> None:
        task = asyncio.ensure_future(
            tab.follow(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        )
        await until_true(lambda: "word" in "".join(tab.rows()))
        key = tab.now[tab.panel.current]
        assert not await opened(tab, key), "it is followed already"
        task.cancel()
        await asyncio.wait({task})
        assert await opened(tab, key)
        again = asyncio.ensure_future(followed(tab))
        before = tab.rows()[-1]
        await until_true(lambda: len(tab.rows()[-1]) > len(before))
        again.cancel()
        await asyncio.wait({again})
        await tab.events.stop(tab.request)
        await until_true(lambda: not tab.answers.under_way(ME))

    run(lost())
    made = tab.path()[-1].made
    assert made is not None and made.reason == "cancelled" and len(tab.backend.streams) == 1


def test_an_answer_that_ends_while_its_chat_is_opened_is_shown_to_its_end() -> None:
    tab = Tab(FakeBackend(words(50), SLOW))

    async def ended() -> None:
        async with asking(tab) as key:
            fresh = another(tab)
            load, read = fresh.panel.state, []

            def slowly(context: Any) -> Any:
                read.append(state := load(context))
                while len(read) == 1 and tab.answers.under_way(ME):
                    time.sleep(0.01)
                return state

            fresh.panel.state = slowly  # type: ignore[method-assign]
            assert not await opened(fresh, key)
            assert len(read) == 2 and fresh.rows() == ["Why?", words(50)] and is_idle(fresh)

    run(ended())


def test_a_chat_in_the_trash_ends_its_answer_and_keeps_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WATCH_SECONDS", 0.02)
    tab = Tab(FakeBackend(words(500), SLOW))

    async def trashed() -> None:
        async with asking(tab) as key:
            await opened(tab, "")
            await tab.store.off_loop(tab.store.trash, ME, [key])
            await until_true(lambda: not tab.answers.under_way(ME))
            await tab.store.off_loop(tab.store.restore, ME, [key])
        last = (await nodes(tab, key))[-1]
        assert "word" in last.text and last.made is not None and last.made.reason == "cancelled"

    run(trashed())
    assert tab.backend.streams[0].cancelled


def test_a_refused_question_stays_in_the_chat_that_its_tab_has_left() -> None:
    tab = Tab(FakeBackend())
    tab.backend.refuse = QueueFull("full")

    async def refused() -> None:
        tab.take(await tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        key = tab.now[tab.panel.current]
        await tab.events.close(tab.request)
        fresh = another(tab)
        await until_true(lambda: not tab.answers.under_way(ME))
        assert not await opened(fresh, key)
        assert fresh.rows() == ["Why?"] and fresh.page["answer"]

    run(refused())


def test_a_refused_question_comes_back_to_its_tab_and_is_gone_from_the_others() -> None:
    tab = Tab(FakeBackend())
    tab.send("Who?")
    tab.backend.refuse, key = QueueFull("full"), tab.now[tab.panel.current]

    async def refused() -> None:
        fresh = another(tab)
        with tab.store._lock:  # the answer cannot begin
            begun = asyncio.ensure_future(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
            await asyncio.sleep(0.05)
        tab.take(await begun)
        assert await opened(fresh, key)
        await asyncio.gather(followed(tab), followed(fresh))
        assert tab.rows() == fresh.rows() == ["Who?", "one two three"]
        assert tab.box == "Why?" and fresh.box is None
        assert "error" in tab.status and "error" in fresh.status and is_idle(fresh)

    run(refused())


def test_an_answer_without_a_tab_counts_among_the_answers_at_once() -> None:
    tab = Tab(FakeBackend(words(500), SLOW), access=Access(answers_at_once=1))

    async def counted() -> None:
        async with asking(tab) as key:
            await opened(tab, "")
            refused = another(tab)
            await opened(refused, "")
            await refused.follow(refused.events.send(refused.request, event(text="And?"), *refused.inputs))
            assert refused.box == "And?" and "error" in refused.status
            assert await opened(tab, key)
            await tab.events.stop(tab.request)
            await followed(tab)
            tab.backend.answer = "end"
            await refused.follow(refused.events.send(refused.request, event(text="And?"), *refused.inputs))
            assert refused.rows() == ["And?", "end"]

    run(counted())


@pytest.mark.parametrize(
    ("seconds", "polls", "ends"), [(0.1, False, True), (0.1, True, False), (9, False, False)]
)
def test_an_answer_that_no_page_shows_ends_after_detached_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float, polls: bool, ends: bool
) -> None:
    monkeypatch.setattr(running, "WATCH_SECONDS", 0.01)
    tab = Tab(FakeBackend(words(60), SLOW))
    tab.answers._detached_seconds = seconds

    async def detached() -> None:
        async with asking(tab) as key:
            await asyncio.sleep(0.2)
            assert tab.answers.under_way(ME)  # it has a reader
            await tab.events.close(tab.request)
        while tab.answers.under_way(ME):
            await asyncio.sleep(0.02)
            if polls:
                tab.answers.look(ME)
        made = (await nodes(tab, key))[-1].made
        assert made is not None and made.reason == ("cancelled" if ends else "stop")

    run(detached())


def test_an_answer_that_is_never_read_ends_after_a_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(running, "FIRST_READER_SECONDS", 0.1)
    tab = Tab(FakeBackend(words(500), SLOW))
    tab.answers._detached_seconds = 0.0

    async def unread() -> None:
        tab.take(await tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        await asyncio.sleep(0.05)
        assert tab.answers.under_way(ME)
        await until_true(lambda: not tab.answers.under_way(ME))

    run(unread())
    assert tab.backend.streams[0].cancelled


def test_a_server_that_ends_keeps_the_text() -> None:
    tab = Tab(FakeBackend(words(500), SLOW))

    async def served() -> None:
        task = asyncio.ensure_future(
            tab.follow(tab.events.send(tab.request, event(text="Why?"), *tab.inputs))
        )
        await until_true(lambda: len(tab.rows()) == 2 and tab.rows()[-1].count("word") > 5)
        await tab.events.close(tab.request)
        await task

    run(served())  # what is left is cancelled with the event loop
    last = tab.path()[-1]
    assert last.text.count("word") > 5 and last.made is not None and last.made.reason == "cancelled"


def test_an_owner_sees_only_their_own_answers() -> None:
    tab = Tab(FakeBackend(words(100), SLOW))

    async def seen() -> None:
        async with asking(tab) as key:
            answers: RunningAnswers = tab.answers
            assert answers.under_way("user:eve") == frozenset()
            question = (await nodes(tab, key))[0]
            assert answers.at("user:eve", key, question) is None
            assert answers.at(ME, key, question) is not None
            await tab.events.stop(tab.request)

    run(seen())
