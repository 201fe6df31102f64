"""What happens on a click in the conversation.

An answer is three events: what was clicked begins it, `grow` shows it as it is written, `end` shows it all.
The model starts with the click, and not when the browser has seen that and asks for more. Gradio goes through
all outputs of an event with every update, ten times a second for each reader: so `grow` has three
(`ChatPanel.growing`). What the handlers give is sent as it is (ui/server/page.py).

No thread waits for an answer. Stop does not kill it: it cancels the stream in the engine, so that the answer
ends as any other does and keeps its numbers. A tab that asks for something new, or opens another
conversation, ends what it asked for before, and late words of that are shown nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from engine.errors import EngineError
from ui.auth.limits import RateLimitExceeded
from ui.conversations.model import Node
from ui.conversations.store import NotFound, StoreError
from ui.generation.answering import Answerer, Task
from ui.generation.sessions import ActiveStreams, BoundedDict, TabRequest
from ui.generation.streaming import Progress
from ui.i18n.words import translator
from ui.pages.chat.edit_events import ContextReader, EditHandlers, EventContext, row_index
from ui.pages.chat.message_toolbar import Updates
from ui.pages.chat.navigation import ConversationState, TabView
from ui.pages.chat.panel import ChatPanel
from ui.pages.settings_panel import SettingsPanel
from ui.render.messages import chatbot_rows, restore_markdown
from ui.render.status import Failure, line

READY_SECONDS = 2.0  # how long a question waits for its page, which a restarted server may never open
SETTLE_SECONDS = 1.0  # how long a page that opens waits for the answer of the one that it replaces
Act = Callable[[ConversationState], ConversationState]


@dataclass
class Work:
    """An answer that a tab has asked for: `here` is what it showed, `there` is with the question.

    `admitted` lets the answer in. `question` is given back when it cannot be answered; `failure` says why.
    `node` and `progress` are the answer so far, which `writing` writes; it sets `changed`. `shown`: a `grow`
    follows it.
    """

    asked: EventContext
    admitted: AbstractContextManager[None]
    turn: TabRequest
    here: ConversationState
    there: ConversationState
    task: Task
    question: str | None
    node: Node
    progress: Progress = field(default_factory=Progress)
    failure: Failure | None = None
    writing: asyncio.Task[None] = field(init=False)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    shown: bool = False


class ChatEvents:
    """The handlers. Their last inputs: the tab's view, the open conversation, the model and the settings."""

    def __init__(
        self,
        panel: ChatPanel,
        answerer: Answerer,
        live: ActiveStreams,
        deeds: EditHandlers,
        read: ContextReader,
    ) -> None:
        self._panel, self._answerer, self._live = panel, answerer, live
        self._deeds, self._asked = deeds, read
        self._ready = BoundedDict[str, None]()  # tabs that know which conversation they show
        self._works = BoundedDict[str, Work]()  # what each tab asked for last

    async def send(self, request: gr.Request, question: str, *tab: Any) -> Updates:
        """Ask what is in the box; while an answer is written it stays there."""
        if not question.strip():
            note = line(translator(request)("status.empty_question"), "note")
            return {self._panel.status: note, self._panel.box: gr.update(value="")}
        asked = self._asked(request, tab)
        work = self._works.get(asked.session)
        if work is not None and work.turn.shown and not work.writing.done():
            return self._panel.nothing()
        return await self._begin(asked, _asking(question), question)

    async def example(self, request: gr.Request, chosen: gr.SelectData, *tab: Any) -> Updates:
        """Ask an example."""
        text = str(chosen.value["text"])
        return await self._begin(self._asked(request, tab), _asking(text), text)

    async def again(self, request: gr.Request, *tab: Any) -> Updates:
        """Another answer beside the last one, or the first to a question without one."""
        return await self._begin(self._asked(request, tab), ConversationState.again)

    async def go_on(self, request: gr.Request, *tab: Any) -> Updates:
        """Continue the last answer."""
        return await self._begin(self._asked(request, tab), lambda here: here)

    async def edit(self, request: gr.Request, edited: gr.EditData, *tab: Any) -> Updates:
        """Ask an earlier question in other words; the same words are no other question."""
        if edited.value == edited.previous_value or not str(edited.value).strip():
            return await self._deeds.act(request, tab, lambda here: here)
        text, index = restore_markdown(str(edited.value)), row_index(edited.index)
        return await self._begin(
            self._asked(request, tab), lambda here: here.ask(text, here.row(index).parent)
        )

    async def grow(self, request: gr.Request) -> AsyncGenerator[Updates, None]:
        """Show the answer that was begun in this tab as it is written; a reader who goes away ends it."""
        yield self._panel.nothing()  # Gradio wants at least one
        work = self._works.get(str(request.session_hash))
        if work is None or work.shown:
            return
        work.shown = True
        path, where = work.task.path, work.asked.where
        above = chatbot_rows(path[:-1] if work.task.partial else path, where.t)
        try:
            while not work.writing.done():
                await work.changed.wait()
                work.changed.clear()
                if work.turn.shown and not work.progress.done and not work.writing.done():
                    yield self._panel.grown(above, work.node, work.progress, where)
            await work.writing  # a bug must be heard
            if not work.turn.shown:
                yield self._panel.nothing()  # Gradio sends the last update again when an event ends
        finally:
            work.writing.cancel()
            await asyncio.wait({work.writing})

    async def end(self, request: gr.Request) -> Updates:
        """Show all of what was begun in this tab, or why there is nothing, once it is over."""
        session = str(request.session_hash)
        work = self._works.get(session)
        if work is None or not work.writing.done():
            return self._panel.nothing()
        del self._works[session]
        if not work.turn.shown:
            return self._panel.nothing()
        if isinstance(work.failure, StoreError) and work.progress.text:
            there = work.there.to(work.node.id)
            return self._panel.unkept(there, work.node, work.failure, work.asked.where)
        if work.failure is not None:
            return self._panel.failed(work.failure, work.asked.where, work.question)
        return self._panel.ended(work.there.to(work.node.id), work.progress, work.asked.where)

    async def open(self, request: gr.Request, current: str | None) -> Updates:
        """Show a conversation as it was left; "" or one that is gone is a new one.

        Whoever asks while the page still loads has opened it already.
        """
        asked = self._asked(request, (TabView(), current, None))
        self._ready[asked.session] = None
        if self._live.is_current(asked.session, asked.where.current):
            return self._panel.translated(asked.where)
        self._live.detach(asked.session)
        try:
            place = self._panel.place(asked.where)
            for _ in range(round(SETTLE_SECONDS / 0.05)):
                if place.last is None or not self._answerer.is_writing(place.last.id):
                    break
                await asyncio.sleep(0.05)
                place = self._panel.place(asked.where)
        except NotFound:
            place = self._panel.place(replace(asked.where, current=""))
        return self._panel.opened(place, asked.where)

    async def stop(self, request: gr.Request) -> None:
        """End the answer under way in this tab."""
        self._live.cancel(str(request.session_hash))

    async def close(self, request: gr.Request) -> None:
        """The tab is gone."""
        self._ready.pop(str(request.session_hash), None)
        self._works.pop(str(request.session_hash), None)
        self._live.detach(str(request.session_hash))

    async def _begin(self, asked: EventContext, start: Act, question: str | None = None) -> Updates:
        """Have the answer written where `start` leads; `question` is given back when that cannot be."""
        await self._until_ready(asked)
        turn = self._live.new_request(asked.session)
        self._works.pop(asked.session, None)
        try:
            system_prompt, sampling = SettingsPanel.read(asked.settings)
            admitted = asked.admit()  # before anything is written
            here = self._panel.place(asked.where)
            there = start(here)
        except (EngineError, RateLimitExceeded, NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where, question)
        turn.key = there.view.key
        task = Task(here.owner, turn.key, tuple(there.path), system_prompt, sampling, asked.model)
        work = Work(asked, admitted, turn, here, there, task, question, task.path[-1])
        work.writing = asyncio.create_task(self._write(work))
        self._works[asked.session] = work
        return self._panel.started(there, asked.where, clear=question is not None)

    async def _until_ready(self, asked: EventContext) -> None:
        """A page that still loads would show a new chat over the one that is about to begin."""
        for _ in range(round(READY_SECONDS / 0.05)):
            if asked.session in self._ready or asked.where.view.key or asked.where.current:
                break
            await asyncio.sleep(0.05)
        self._ready[asked.session] = None

    async def _write(self, work: Work) -> None:
        """Have the answer written, or keep why it is not."""
        session, turn = work.asked.session, work.turn
        try:
            with work.admitted:
                async with aclosing(self._answerer.answer(work.task, session, turn)) as updates:
                    async for work.node, work.progress in updates:
                        work.changed.set()
            if work.progress.error is not None and not work.progress.text:
                raise work.progress.error
        except (EngineError, RateLimitExceeded, NotFound, StoreError) as error:
            work.failure = error
            with suppress(NotFound, StoreError):
                work.here.forget(work.there)
        finally:
            work.changed.set()


def _asking(question: str) -> Act:
    return lambda here: here.ask(question, here.view.leaf)
