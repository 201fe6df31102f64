"""Errors that no code foresaw: each ends the turn with a line, and the page can ask again."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import Any

import pytest

from engine.config import SamplingParams
from engine.errors import EngineStopped, Unforeseen, foreseen
from engine.serving.model_pool import ModelPool
from tests.ui.fake_backend import FakeBackend
from tests.ui.openai.test_openai_api import post
from tests.ui.pages.chat.tab import ME, Tab
from tests.ui.pages.chat.test_models_panel import REQUEST, panel_over
from ui.generation.answering import _AnswerWriter
from ui.generation.side_by_side import SideBySide
from ui.models.registry import acquire_model
from ui.pages.chat.panel import ChatPanel

UNFORESEEN = [
    ValueError("could not parse 'x'"),
    KeyError("content"),
    TimeoutError(),
    RuntimeError("CUDA error\n at line 1"),
    OSError(24, "Too many open files"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    sqlite3.ProgrammingError("closed"),
    AssertionError(),
]


def ended(tab: Tab, said: str) -> None:
    """Check that the page waits for nothing and says what happened."""
    assert "busy" not in tab.status and said in tab.status and "Try again" in tab.status
    assert tab.is_idle


def works_again(tab: Tab) -> None:
    tab.backend.refuse = tab.backend.error = None
    tab.send("Again?")
    assert tab.rows()[-2:] == ["Again?", "one two three"] and "3 tokens" in tab.status


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_error_before_the_first_word_gives_the_question_back(error: Exception) -> None:
    tab = Tab(FakeBackend())
    tab.backend.refuse = error
    tab.send("Why?")
    ended(tab, type(error).__name__)
    assert tab.box == "Why?" and tab.store.list(ME) == ()
    works_again(tab)


def test_an_error_after_the_first_word_keeps_what_was_written() -> None:
    tab = Tab(FakeBackend(error=ValueError("bad token")))
    tab.send("Why?")
    ended(tab, "ValueError: bad token")
    assert tab.rows() == ["Why?", "one two three"] and "kept" in tab.status
    made = tab.path()[-1].made
    assert made is not None and made.reason == "error"
    works_again(tab)


def test_an_error_where_the_answer_is_written_down_keeps_what_was_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = _AnswerWriter.update

    async def update(self: _AnswerWriter, progress: Any) -> Any:
        node = await original(self, progress)
        if progress.done:
            raise TypeError("unhashable")
        return node

    tab = Tab(FakeBackend(pause=0.01))
    monkeypatch.setattr(_AnswerWriter, "update", update)
    tab.send("Why?")
    ended(tab, "TypeError: unhashable")
    assert tab.rows() == ["Why?", "one two three"]
    monkeypatch.setattr(_AnswerWriter, "update", original)
    works_again(tab)


@pytest.mark.parametrize("broken", ["show_ended", "show_progress", "state"])
def test_an_error_of_the_page_itself_ends_the_turn(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    tab = Tab(FakeBackend())
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("division by zero")

        patch.setattr(ChatPanel, broken, fail)
        if broken == "show_progress":  # Gradio runs the third event after a failed second one too
            with pytest.raises(ZeroDivisionError):
                tab.send("Why?")
            tab.take(asyncio.run(tab.events.finish(tab.request)))
            assert "busy" not in tab.status
        else:
            tab.send("Why?")
            ended(tab, "ZeroDivisionError: division by zero")
    works_again(tab)


def test_a_model_whose_loading_fails_in_an_unforeseen_way_leaves_the_picker() -> None:
    def open_model(*_: Any) -> FakeBackend:
        raise ValueError("bad magic")

    async def notes() -> list[str]:
        return [update[3] async for update in panel_over(open_model)._switch(REQUEST, "b", "a")]

    last = asyncio.run(notes())[-1]
    assert "error" in last and "ValueError: bad magic" in last and "Model a" in last


def test_a_comparison_shows_an_unforeseen_error_in_its_column() -> None:
    backends = {"a": FakeBackend(), "b": FakeBackend(error=KeyError("b"))}
    pool = ModelPool(lambda key, _: backends[key], "ab", "a")

    async def last() -> list[Any]:
        race = SideBySide(pool, "ab", [{"role": "user", "content": "Why?"}], SamplingParams())
        return [columns async for columns in race.run()][-1]

    one, other = asyncio.run(last())
    assert one.progress.reason == "stop" and isinstance(other.progress.error, Unforeseen)
    assert other.progress.text == "one two three"


def test_callers_of_the_api_get_an_unforeseen_error_as_json() -> None:
    reply = post(FakeBackend(error=ValueError("odd")))
    assert reply.status_code == 500 and reply.json()["error"]["message"] == "ValueError: odd"
    refusing = FakeBackend()
    refusing.refuse = ValueError("odd")
    assert post(refusing).json()["error"]["type"] == "server_error"
    lines = post(FakeBackend(error=ValueError("odd")), stream=True).text.split("\n\n")
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["message"] == "ValueError: odd"


def test_a_model_is_released_after_an_unforeseen_error() -> None:
    pool = ModelPool(lambda *_: FakeBackend(), ["a"], "a")

    async def use() -> None:
        async with acquire_model(pool):
            raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller"):
        asyncio.run(use())
    assert pool._entries["a"].users == 0


def test_the_words_of_an_unforeseen_error_are_one_short_line() -> None:
    known = EngineStopped("gone")
    assert foreseen(known) is known
    assert str(foreseen(RuntimeError("a\n b"))) == "RuntimeError: a b"
    assert len(str(foreseen(RuntimeError("x" * 9000)))) < 250
    assert str(foreseen(TimeoutError())) == "TimeoutError"
