"""A browser tab without a browser: it runs the chat's events, and keeps what the page's script would show."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr

from tests.ui.fake_backend import FakeBackend, in_event_loop
from ui.auth.access import Access
from ui.conversations.model import Node
from ui.conversations.store import Store
from ui.generation.answering import Answerer
from ui.generation.running import RunningAnswers
from ui.generation.sessions import ActiveStreams
from ui.models.registry import acquire_model, one_model
from ui.pages.chat.edit_events import ContextReader, EditHandlers
from ui.pages.chat.generation_events import ChatEvents
from ui.pages.chat.navigation import TabView
from ui.pages.chat.panel import ChatPanel
from ui.pages.chat.readers import TabReaders
from ui.pages.settings_panel import SettingsPanel

ME = "local"


class OffLoopStore(Store):
    """A store that no event loop may wait for."""

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        assert not in_event_loop(), "a locked file would stop everybody: see Store.off_loop"
        with super()._locked() as connection:
            yield connection


class Tab:
    """A browser tab: keeps the values of the updates, as a page does."""

    def __init__(
        self, backend: FakeBackend, store: Store | None = None, access: Access | None = None
    ) -> None:
        self.backend, self.store, self.live = backend, store or OffLoopStore(), ActiveStreams()
        access = access or Access()
        answerer = Answerer(partial(acquire_model, one_model(backend).pool), self.store, self.live, 2048)
        self.answers, self.readers = RunningAnswers(self.store), TabReaders()
        with gr.Blocks():
            self.settings = SettingsPanel(2048)
            self.panel = ChatPanel(self.store, current=gr.State(""), is_writing=self.answers.is_writing)
        read = ContextReader(answerer.context_of, owner_of=lambda _: ME, admit=lambda _: access.admit(ME, ""))
        self.edits = EditHandlers(self.panel, self.readers, read)
        self.events = ChatEvents(
            self.panel, answerer, self.answers, self.readers, edits=self.edits, read=read
        )
        self.request = cast(gr.Request, SimpleNamespace(session_hash="tab", headers={}))
        self.now: dict[Any, Any] = {self.panel.view: TabView(), self.panel.current: ""}
        self.items: list[Any] = []
        self.page: Any = None
        self.growing: Any = {"item": None, "status": None}
        self.values = [component.value for component in self.settings.components]
        self.take(asyncio.run(self.events.open(self.request, "")))

    @property
    def inputs(self) -> list[Any]:
        return [self.now[self.panel.view], self.now[self.panel.current], None, *self.values]

    async def follow(self, begin: Awaitable[dict[Any, Any]]) -> None:
        async for _ in self.updates(begin):
            pass

    async def updates(self, begin: Awaitable[dict[Any, Any]]) -> AsyncGenerator[None, None]:
        """Run the three events of an answer in the order of a page; yield between the updates."""
        self.take(await begin)
        yield
        async with aclosing(self.events.stream(self.request)) as growing:
            async for update in growing:
                assert set(update) <= set(self.panel.streamed)
                self.take(update)
                yield
        self.take(await self.events.finish(self.request))

    def take(self, update: dict[Any, Any]) -> None:
        """Do what the page's script does with an update (ui/static/message_list.js)."""
        assert set(update) <= {*self.panel.outputs, *self.panel.streamed}
        self.now |= {part: new for part, new in update.items() if new != gr.skip()}
        if (page := update.get(self.panel.messages.chat)) is not None:
            if (first := page.get("from")) is not None and page["items"] is not None:
                assert first == 0 or self.items[first - 1]["id"] == page["after"]
                self.items = [*self.items[:first], *page["items"]]
            self.page, self.growing = page, {"item": None, "status": None}
        growing = update.get(self.panel.messages.growing, gr.skip())
        if growing != gr.skip() and self.page["writing"]:
            self.growing = growing

    def send(self, text: str) -> None:
        asyncio.run(self.follow(self.events.send(self.request, event(text=text), *self.inputs)))

    def path(self) -> list[Node]:
        (summary,) = self.store.list(ME)
        return self.store.load(ME, summary.id).tree.path()

    def rows(self) -> list[str]:
        """Return the texts that the page shows."""
        grown = self.growing["item"]
        shown = [item for item in self.items if grown is None or item["id"] != grown["id"]]
        return [item["text"] for item in [*shown, *([grown] if grown else [])]]

    @property
    def box(self) -> str | None:
        return cast("str | None", self.page.get("box"))

    @property
    def is_idle(self) -> bool:
        return self.page["writing"] is False

    @property
    def status(self) -> str:
        """The line below the messages with its kind, and the last answer's statistics when there is none."""
        told = self.growing["status"] or self.page["status"] or {"kind": "", "text": ""}
        stats = self.items[-1].get("stats", "") if self.items and self.is_idle else ""
        return f"{told['kind']} {told['text'] or stats}"


def event(**values: Any) -> gr.EventData:
    return gr.EventData(None, values)
