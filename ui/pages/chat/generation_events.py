"""Handlers of the events that generate an answer: send, example, regenerate, continue, edit, stop.

An answer is three Gradio events: the click begins it, `stream` shows it while it is written, and `finish`
shows the final state. The model starts with the click, without another round trip. Gradio processes all
outputs of an event at every update, ten times a second for each reader, so `stream` has only three
(`ChatPanel.streamed`). Updates are sent without postprocessing (ui/server/page.py).

No thread waits for an answer. Stop cancels the stream in the engine, so that the answer ends like any other
and keeps its statistics. When a tab asks for something new or opens another conversation, its previous
answer is cancelled, and no more of it is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from engine.errors import Unforeseen, foreseen
from ui.auth.limits import RateLimitExceeded
from ui.conversations.model import Node
from ui.conversations.store import NotFound, StoreError
from ui.generation.answering import Answerer, Task
from ui.generation.sessions import ActiveStreams, BoundedDict, TabRequest
from ui.generation.streaming import Progress
from ui.pages.chat.edit_events import ContextReader, EditHandlers, EventContext
from ui.pages.chat.message_list import data, node_of, text_of
from ui.pages.chat.navigation import ConversationState, TabView
from ui.pages.chat.panel import ChatPanel, Updates
from ui.pages.settings_panel import SettingsPanel
from ui.render.status import Failure

READY_SECONDS = 2.0  # a question waits this long for its page, which may never open after a restart
SETTLE_SECONDS = 1.0  # an opening page waits this long for the answer of the page that it replaces
Act = Callable[[ConversationState], ConversationState]


@dataclass
class Work:
    """An answer that a tab has asked for: `here` is the state before, `there` the one with the question.

    `admitted` is held while the answer is written. `question` goes back into the box when it cannot be
    answered, for the reason `failure`. The task `writing` updates `node` and `progress`, the answer so far,
    and sets `changed`. `shown`: a `stream` handler follows it.
    """

    event: EventContext
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
    """Event handlers. Their last inputs are those that ContextReader reads."""

    def __init__(
        self,
        panel: ChatPanel,
        answerer: Answerer,
        live: ActiveStreams,
        edits: EditHandlers,
        read: ContextReader,
    ) -> None:
        self._panel, self._answerer, self._live = panel, answerer, live
        self._edits, self._read = edits, read
        self._ready = BoundedDict[str, None]()  # sessions whose page has opened its conversation
        self._works = BoundedDict[str, Work]()  # the last answer of each session

    async def send(self, request: gr.Request, asked: gr.EventData, *inputs: Any) -> Updates:
        """Send a question; it goes back into the box while another answer is written."""
        event, question = self._read(request, inputs), text_of(asked)
        if not question.strip():
            return self._panel.no_update()
        work = self._works.get(event.session)
        if work is not None and work.turn.shown and not work.writing.done():
            return await self._panel.off_loop(lambda: self._panel.show(self._panel.state(event.tab), event.tab, box=question))
        return await self._begin(event, _asking(question), question)

    async def regenerate(self, request: gr.Request, clicked: gr.EventData, *inputs: Any) -> Updates:
        """Generate another version of an answer, or the first answer to an unanswered question."""
        node = node_of(clicked)
        return await self._begin(self._read(request, inputs), lambda here: here.regenerate(node or None))

    async def continue_answer(self, request: gr.Request, *inputs: Any) -> Updates:
        """Continue the last answer."""
        return await self._begin(self._read(request, inputs), lambda here: here)

    async def edit(self, request: gr.Request, edited: gr.EventData, *inputs: Any) -> Updates:
        """Send an edited version of a question, or show one of an answer; an unchanged one is not sent again."""
        node, text = node_of(edited), text_of(edited)
        if data(edited).get("role") == "assistant" or not text.strip():
            return await self._edits.apply(
                request, inputs, lambda here: here.edit(node, text) if text.strip() else here
            )
        return await self._begin(self._read(request, inputs), lambda here: here.edit(node, text))

    async def stream(self, request: gr.Request) -> AsyncGenerator[Updates, None]:
        """Show this tab's answer while it is written; cancel it when the reader disconnects."""
        yield self._panel.no_update()  # Gradio wants at least one
        work = self._works.get(str(request.session_hash))
        if work is None or work.shown:
            return
        work.shown = True
        where = work.event.tab
        try:
            while not work.writing.done():
                await work.changed.wait()
                work.changed.clear()
                if work.turn.shown and not work.progress.done and not work.writing.done():
                    yield self._panel.show_progress(work.node, work.progress, where)
            if not work.turn.shown:
                yield self._panel.no_update()  # Gradio sends the last update again when an event ends
        finally:
            work.writing.cancel()
            await asyncio.wait({work.writing})

    async def finish(self, request: gr.Request) -> Updates:
        """Show the final state of this tab's answer, or its error."""
        session = str(request.session_hash)
        work = self._works.get(session)
        if work is None or not work.writing.done():
            return self._panel.no_update()
        del self._works[session]
        if not work.turn.shown:
            return self._panel.no_update()
        if work.failure is None:
            try:
                show = self._panel.show_ended
                return await self._panel.off_loop(
                    show, work.there, work.node.id, work.progress, work.event.tab
                )
            except Exception as error:  # noqa: BLE001 - the boundary, as above
                work.failure = failure(error)
        return await self._show_failure(work, work.failure)

    async def _show_failure(self, work: Work, failure: Failure) -> Updates:
        """Show what was written of an answer that cannot be kept, or else the chat without it."""
        if isinstance(failure, StoreError) and work.progress.text:
            there = work.there.view_at(work.node.id)
            return self._panel.show_unsaved(there, work.node, failure, work.event.tab)
        return await self._show_error(failure, work.event, work.question)

    async def open(self, request: gr.Request, current: str | None) -> Updates:
        """Show a conversation at its saved leaf; "" or a deleted one starts a new conversation.

        A question that is sent while the page still loads has already opened its conversation.
        """
        event = self._read(request, (TabView(), current, None))
        self._ready[event.session] = None
        if self._live.is_current(event.session, event.tab.current):
            return await self._panel.off_loop(lambda: self._panel.show_opened(self._panel.state(event.tab), event.tab))
        self._live.detach(event.session)
        try:
            state = await self._state(event)
            for _ in range(round(SETTLE_SECONDS / 0.05)):
                if state.last is None or not self._answerer.is_writing(state.last.id):
                    break
                await asyncio.sleep(0.05)
                state = await self._state(event)
        except NotFound:
            state = self._panel.state(replace(event.tab, current=""))  # reads nothing
        except StoreError as error:
            return await self._show_error(error, event)
        return self._panel.show_opened(state, event.tab)

    async def _state(self, event: EventContext) -> ConversationState:
        return await self._panel.off_loop(self._panel.state, event.tab)

    async def _show_error(self, error: Failure, event: EventContext, question: str | None = None) -> Updates:
        return await self._panel.off_loop(self._panel.show_error, error, event.tab, question)

    async def stop(self, request: gr.Request) -> None:
        """Cancel the answer under way in this tab."""
        self._live.cancel(str(request.session_hash))

    async def close(self, request: gr.Request) -> None:
        """Forget a closed tab, and cancel its answer."""
        self._ready.pop(str(request.session_hash), None)
        self._works.pop(str(request.session_hash), None)
        self._live.detach(str(request.session_hash))

    async def _begin(self, event: EventContext, start: Act, question: str | None = None) -> Updates:
        """Start an answer in the state that `start` returns; an error gives `question` back."""
        await self._until_ready(event)
        turn = self._live.new_request(event.session)
        turn.key = event.tab.view.key or event.tab.current
        self._works.pop(event.session, None)
        try:
            system_prompt, sampling = SettingsPanel.read(event.settings)
            admitted = event.admit()  # before anything is written
            here = await self._state(event)
            there = await self._panel.off_loop(start, here)
        except Exception as error:  # noqa: BLE001 - the boundary: any error ends the turn
            return await self._show_error(failure(error), event, question)
        if not turn.shown:  # the tab has turned to something else meanwhile
            await self._discard(here, there)
            return self._panel.no_update()
        turn.key = there.view.key
        task = Task(here.owner, turn.key, tuple(there.path), system_prompt, sampling, event.model)
        work = Work(event, admitted, turn, here, there, task, question, task.path[-1])
        work.writing = asyncio.create_task(self._write(work))
        self._works[event.session] = work
        return self._panel.show_started(here, there, event.tab)

    async def _until_ready(self, event: EventContext) -> None:
        """Wait for the page to load: it would show a new chat over the one that is about to begin."""
        for _ in range(round(READY_SECONDS / 0.05)):
            if event.session in self._ready or event.tab.view.key or event.tab.current:
                break
            await asyncio.sleep(0.05)
        self._ready[event.session] = None

    async def _write(self, work: Work) -> None:
        """Write the answer, or record its failure."""
        session, turn = work.event.session, work.turn
        try:
            with work.admitted:
                async with aclosing(self._answerer.answer(work.task, session, turn)) as updates:
                    async for work.node, work.progress in updates:
                        work.changed.set()
            if work.progress.error is not None and not work.progress.text:
                raise work.progress.error
        except Exception as error:  # noqa: BLE001 - the boundary: the page would wait for good
            await self._fail(work, failure(error))
        finally:
            work.changed.set()

    async def _fail(self, work: Work, error: Failure) -> None:
        """Record why an answer failed; what it has written before a fault of the program is kept."""
        if isinstance(error, Unforeseen) and work.progress.text:
            work.progress = replace(work.progress, error=error)
        else:
            work.failure = error
            await self._discard(work.here, work.there)

    async def _discard(self, here: ConversationState, there: ConversationState) -> None:
        """Remove the question that `there` has added to `here`, since it is not answered."""
        with suppress(NotFound, StoreError):
            await self._panel.off_loop(here.discard, there)


def failure(error: Exception) -> Failure:
    """Return an error as one that the page explains."""
    return error if isinstance(error, RateLimitExceeded | NotFound | StoreError) else foreseen(error)


def _asking(question: str) -> Act:
    return lambda here: here.ask(question, here.view.leaf)
