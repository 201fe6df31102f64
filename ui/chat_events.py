"""What happens on a click in the conversation.

An answer is one async generator: no thread waits for it. Stop does not kill it: it cancels the stream in the
engine, so that the answer ends as any other does and keeps its numbers. A tab that asks for something new, or
opens another conversation, ends what it asked for before, and late words of that are shown nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from engine.errors import EngineError
from ui.access import admit
from ui.actions import Place, View
from ui.answering import Answerer, Task
from ui.bar import Updates
from ui.chat_panel import ChatPanel, Where
from ui.limits import TooMany
from ui.live import LiveStreams, Turn
from ui.markup import restore
from ui.settings_panel import SettingsPanel
from ui.shown import shown
from ui.status import line
from ui.store import Unknown
from ui.streaming import Progress
from ui.texts import words
from ui.tree import Opinion
from ui.visitor import owner_of

SETTLE_SECONDS = 1.0  # how long a page that opens waits for the answer of the one that it replaces
Act = Callable[[Place], Place]
Answering = AsyncGenerator[Updates, None]
OwnerOf = Callable[[gr.Request], str]
Admit = Callable[[gr.Request], AbstractContextManager[None]]


@dataclass(frozen=True)
class Asked:
    """Who asks from where, and how: an event's inputs without what is asked."""

    where: Where
    session: str
    model: str | None
    settings: Sequence[Any]
    admit: Callable[[], AbstractContextManager[None]]


class ChatEvents:
    """The handlers. Their last inputs: the tab's view, the open conversation, the model and the settings."""

    def __init__(
        self,
        panel: ChatPanel,
        answerer: Answerer,
        live: LiveStreams,
        *,
        owner_of: OwnerOf = owner_of,
        admit: Admit = admit,
    ) -> None:
        """`owner_of` says whose request it is, `admit` lets it in for the time of an answer."""
        self._panel, self._answerer, self._live = panel, answerer, live
        self._owner_of, self._admit = owner_of, admit

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
            yield await self.act(request, tab, lambda here: here)
            return
        text, index = restore(str(edited.value)), _index(edited.index)

        def beside(here: Place) -> Place:
            return here.ask(text, here.row(index).parent)

        async with aclosing(self._answer(self._asked(request, tab), beside)) as updates:
            async for update in updates:
                yield update

    async def act(self, request: gr.Request, tab: Sequence[Any], act: Act) -> Updates:
        """Do something that is done at once; an answer under way in the tab ends."""
        asked = self._asked(request, tab)
        self._live.leave(asked.session)
        try:
            return self._panel.show(act(self._panel.place(asked.where)), asked.where)
        except Unknown as error:
            return self._panel.failed(error, asked.where)

    async def undo(self, request: gr.Request, *tab: Any) -> Updates:
        """Take the last question back into the box."""
        asked = self._asked(request, tab)
        self._live.leave(asked.session)
        try:
            place, question = self._panel.place(asked.where).undo()
        except Unknown as error:
            return self._panel.failed(error, asked.where)
        return self._panel.show(place, asked.where, question)

    async def mark(self, request: gr.Request, clicked: gr.SelectData, *tab: Any) -> Updates:
        """A message was clicked: the bar is about it. An answer under way goes on."""
        asked = self._asked(request, tab)
        try:
            place = self._panel.place(asked.where).mark(_index(clicked.index))
        except Unknown as error:
            return self._panel.failed(error, asked.where)
        return self._panel.marked(place, asked.where)

    async def ask_to_delete(self, request: gr.Request, *tab: Any) -> Updates:
        """Whether the message that was clicked is really to go."""
        asked = self._asked(request, tab)
        try:
            return self._panel.bar.asking(self._panel.place(asked.where), asked.where.say)
        except Unknown as error:
            return self._panel.failed(error, asked.where)

    async def judge(self, request: gr.Request, liked: gr.LikeData, *tab: Any) -> Updates:
        """A thumb was clicked: keep it, and offer a note."""
        asked, opinions = self._asked(request, tab), dict[object, Opinion]({True: "like", False: "dislike"})
        try:
            here = self._panel.place(asked.where)
            node = here.row(_index(liked.index))
            there = here.judge(node.id, opinions.get(liked.liked), node.note)
        except Unknown as error:
            return self._panel.failed(error, asked.where)
        return self._panel.judging(there, there.tree.nodes[node.id], asked.where)

    async def note(self, request: gr.Request, text: str, node: int | None, *tab: Any) -> Updates:
        """Keep a note on the answer that was judged."""
        asked = self._asked(request, tab)
        try:
            here = self._panel.place(asked.where)
            if node is not None and node in here.tree.nodes:
                here.judge(node, here.tree.nodes[node].opinion, text.strip())
        except Unknown as error:
            return self._panel.failed(error, asked.where)
        return self._panel.note.hidden()

    async def open(self, request: gr.Request, current: str | None) -> Updates:
        """Show a conversation as it was left; "" or one that is gone is a new one."""
        asked = self._asked(request, (View(), current, None))
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
        self._live.leave(str(request.session_hash))

    def _asked(self, request: gr.Request, tab: Sequence[Any]) -> Asked:
        view, current, model, *settings = tab
        context = self._answerer.context_of(model)
        where = Where(self._owner_of(request), view, current or "", context, words(request))
        return Asked(where, str(request.session_hash), model, settings, lambda: self._admit(request))

    async def _answer(self, asked: Asked, start: Act, question: str | None = None) -> Answering:
        """Answer where `start` leads; `question` is given back when that cannot be."""
        turn = self._live.begin(asked.session)
        here: Place | None = None
        there: Place | None = None
        try:
            system_prompt, sampling = SettingsPanel.read(asked.settings)
            here = self._panel.place(asked.where)
            there = start(here)
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


def _index(index: object) -> int:
    """The Chatbot's row; other components have other indices."""
    return index if isinstance(index, int) else -1
