"""Probabilities on demand, and going on from another token, without a browser."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from engine.types import AnswerToScore
from tests.ui.fake_backend import FakeBackend
from tests.ui.pages.chat.tab import ME, Tab, event
from ui.auth.access import Access
from ui.models.registry import acquire_model, one_model
from ui.pages.chat.edit_events import ContextReader
from ui.pages.chat.probability_events import ProbabilityEvents


def shown(tab: Tab, **data: Any) -> dict[str, Any]:
    """Return what the page gets for an answer."""
    acquire = partial(acquire_model, one_model(tab.backend).pool)
    access = Access()
    read = ContextReader(lambda _: 2048, owner_of=lambda _: ME, admit=lambda _: access.admit(ME, ""))
    events = ProbabilityEvents(tab.panel, acquire, read)
    update = asyncio.run(events.show(tab.request, event(**data), *tab.inputs))
    found: dict[str, Any] = update[tab.panel.messages.growing]["probabilities"]
    return found


def test_an_answer_is_scored_with_the_prompt_that_it_was_made_with() -> None:
    tab = Tab(FakeBackend("one two three"))
    tab.values[0] = "Be brief."
    tab.send("Why?")
    tab.send("And?")
    tab.values[0] = "Be long."
    answer = tab.items[1]
    found = shown(tab, node=answer["id"])
    assert found["node"] == answer["id"] and "fake Q4_K_M" in found["note"]
    assert [token["text"] for token in found["tokens"]] == ["one", " two", " three"]
    assert [choice["text"] for choice in found["tokens"][1]["choices"]] == [" two", " other"]
    scored = tab.backend.prompts[-1]
    assert isinstance(scored, AnswerToScore)
    assert [message["content"] for message in scored.messages] == ["Be brief.", "Why?", "one two three"]


def test_another_token_begins_a_version_that_goes_on() -> None:
    tab = Tab(FakeBackend("one two three"))
    tab.send("Why?")
    node = tab.items[1]["id"]
    tab.backend.answer = " and more"
    begin = tab.events.fork(tab.request, event(node=node, text="one other"), *tab.inputs)
    asyncio.run(tab.follow(begin))
    assert tab.rows() == ["Why?", "one other and more"] and tab.is_idle
    assert [message["content"] for message in tab.backend.asked[-1][0]] == ["Why?", "one other"]
    assert tab.items[1]["versions"] == [node, tab.items[1]["id"]] and "3 tokens" in tab.status
    begin = tab.events.fork(tab.request, event(node=node, text=" "), *tab.inputs)
    asyncio.run(tab.follow(begin))  # an empty beginning is another version from the start


def test_a_fork_that_is_refused_leaves_nothing() -> None:
    tab = Tab(FakeBackend("one two three"))
    tab.send("Why?")
    node = tab.items[1]["id"]
    tab.backend.refuse = RuntimeError("no")
    asyncio.run(tab.follow(tab.events.fork(tab.request, event(node=node, text="one"), *tab.inputs)))
    assert tab.rows() == ["Why?", "one two three"] and tab.is_idle and tab.items[1]["id"] == node


def test_what_cannot_be_scored_says_why() -> None:
    tab = Tab(FakeBackend("one two three"))
    tab.send("Why?")
    question, answer = (item["id"] for item in tab.items)
    assert "no longer there" in shown(tab, node=question)["error"]
    assert "no longer there" in shown(tab, node=999)["error"]
    tab.backend.refuse = RuntimeError("broken")
    assert shown(tab, node=answer)["error"]
