"""What happens on a click in the conversation.

An answer is one async generator: no thread waits for it. Stop does not kill it: it cancels the stream in the
engine, so that the answer ends as any other does and keeps its numbers. A tab that asks for something new, or
opens another conversation, ends what it asked for before, and late words of that are shown nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import gradio as gr

from engine.errors import EngineError
from ui.actions import Place, View
from ui.answering import Answerer, Task
from ui.asked import Asked, Reader
from ui.bar import Updates
from ui.chat_deeds import ChatDeeds, row_index
from ui.chat_panel import ChatPanel
from ui.limits import TooMany
from ui.live import LiveStreams, Turn
from ui.markup import restore
from ui.settings_panel import SettingsPanel
from ui.shown import shown
from ui.status import line
from ui.store import Unknown
from ui.streaming import Progress
from ui.texts import words

READY_SECONDS = 2.0  # how long a question waits for its page, which a restarted server may never open
SETTLE_SECONDS = 1.0  # how long a page that opens waits for the answer of the one that it replaces
Act = Callable[[Place], Place]
Answering = AsyncGenerator[Updates, None]


class ChatEvents:
    """The handlers. Their last inputs: the tab's view, the open conversation, the model and the settings."""

    def __init__(
        self, panel: ChatPanel, answerer: Answerer, live: LiveStreams, deeds: ChatDeeds, read: Reader
    ) -> None:
        self._panel, self._answerer, self._live = panel, answerer, live
        self._deeds, self._asked = deeds, read
        self._ready: set[str] = set()  # tabs that know which conversation they show

    async def send(self, request: gr.Request, question: str, *tab: Any) -> Answering:
        """Ask what is in the box."""
        if not question.strip():
            yield {self._panel.status: line(words(request)("status.empty_question"), "note")}
            return
        async with aclosing(self._answer(self._asked(request, tab), _asking(question), question)) as updates:
            async for update in updates:
                yield update

    async def example(self, request: gr.Request, chosen: gr.SelectData, *tab: Any) -> Answering:
        """Ask an example."""
        text = str(chosen.value["text"])
        async with aclosing(self._answer(self._asked(request, tab), _asking(text), text)) as updates:
            async for update in updates:
                yield update

    async def again(self, request: gr.Request, *tab: Any) -> Answering:
        """Another answer beside the last one, or the first to a question without one."""
        async with aclosing(self._answer(self._asked(request, tab), Place.again)) as updates:
            async for update in updates:
                yield update

    async def go_on(self, request: gr.Request, *tab: Any) -> Answering:
        """Continue the last answer."""
        async with aclosing(self._answer(self._asked(request, tab), lambda here: here)) as updates:
            async for update in updates:
                yield update

    async def edit(self, request: gr.Request, edited: gr.EditData, *tab: Any) -> Answering:
        """Ask an earlier question in other words; the same words are no other question."""
        if edited.value == edited.previous_value or not str(edited.value).strip():
            yield await self._deeds.act(request, tab, lambda here: here)
            return
        text, index = restore(str(edited.value)), row_index(edited.index)

        def beside(here: Place) -> Place:
            return here.ask(text, here.row(index).parent)

        async with aclosing(self._answer(self._asked(request, tab), beside)) as updates:
            async for update in updates:
                yield update

    async def open(self, request: gr.Request, current: str | None) -> Updates:
        """Show a conversation as it was left; "" or one that is gone is a new one.

        Whoever asks while the page still loads has opened it already.
        """
        asked = self._asked(request, (View(), current, None))
        self._ready.add(asked.session)
        if self._live.shows(asked.session, asked.where.current):
            return self._panel.translated(asked.where)
        self._live.leave(asked.session)
        try:
            place = self._panel.place(asked.where)
            for _ in range(round(SETTLE_SECONDS / 0.05)):
                if place.last is None or not self._answerer.writes(place.last.id):
                    break
                await asyncio.sleep(0.05)
                place = self._panel.place(asked.where)
        except Unknown:
            place = self._panel.place(replace(asked.where, current=""))
        return self._panel.opened(place, asked.where)

    async def stop(self, request: gr.Request) -> None:
        """End the answer under way in this tab."""
        self._live.cancel(str(request.session_hash))

    async def close(self, request: gr.Request) -> None:
        """The tab is gone."""
        self._ready.discard(str(request.session_hash))
        self._live.leave(str(request.session_hash))

    async def _answer(self, asked: Asked, start: Act, question: str | None = None) -> Answering:
        """Answer where `start` leads; `question` is given back when that cannot be."""
        await self._until_ready(asked)
        turn = self._live.begin(asked.session)
        here: Place | None = None
        there: Place | None = None
        try:
            system_prompt, sampling = SettingsPanel.read(asked.settings)
            here = self._panel.place(asked.where)
            there = start(here)
            turn.key = there.view.key
            yield self._panel.started(there, asked.where, clear=question is not None)
            task = Task(here.owner, there.view.key, tuple(there.path), system_prompt, sampling, asked.model)
            with asked.admit():
                async with aclosing(self._grow(there, task, asked, turn)) as updates:
                    async for update in updates:
                        yield update
        except (EngineError, TooMany, Unknown) as error:
            if here is not None and there is not None:
                with suppress(Unknown):
                    here.forget(there)
            if turn.shown:
                yield self._panel.failed(error, asked.where, question)

    async def _until_ready(self, asked: Asked) -> None:
        """A page that still loads would show a new chat over the one that is about to begin."""
        for _ in range(round(READY_SECONDS / 0.05)):
            if asked.session in self._ready or asked.where.view.key or asked.where.current:
                break
            await asyncio.sleep(0.05)
        self._ready.add(asked.session)

    async def _grow(self, place: Place, task: Task, asked: Asked, turn: Turn) -> Answering:
        """The answer as it grows; raises what went wrong before its first word."""
        above = shown(task.path[:-1] if task.begun else task.path, asked.where.say)
        node, progress = task.path[-1], Progress()
        async with aclosing(self._answerer.answer(task, asked.session, turn)) as updates:
            async for node, progress in updates:
                if turn.shown and not progress.done:
                    yield self._panel.grown(above, node, progress, asked.where)
        if progress.error is not None and not progress.text:
            raise progress.error
        if turn.shown:
            yield self._panel.ended(place.to(node.id), progress, asked.where)


def _asking(question: str) -> Act:
    return lambda here: here.ask(question, here.view.leaf)
