"""Handlers of the events that generate an answer: send, regenerate, continue, edit, stop.

An answer is three Gradio events: the click begins it, `stream` shows it while it is written, and `finish`
shows the final state. The model starts with the click, without another round trip. Gradio processes all
outputs of an event at every update, ten times a second for each reader, so `stream` has only one
(`ChatPanel.streamed`). Updates are sent without postprocessing (ui/server/page.py).

No thread waits for an answer. It belongs to its conversation (ui/generation/running.py): a tab that opens
another chat, is reloaded or closed leaves it, and one that opens a chat with an answer under way follows it
by `stream` and `finish`. Stop cancels the stream in the engine, so that the answer ends like any other and
keeps its statistics. What changes the conversation in a tab (an edit, another version, undo, delete) stops
the answer that this tab shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from engine.errors import Unforeseen, foreseen
from ui.auth.limits import RateLimitExceeded
from ui.conversations.store import NotFound, StoreError
from ui.generation.answering import Answerer
from ui.generation.running import RunningAnswer, RunningAnswers, Task
from ui.generation.sessions import BoundedDict
from ui.pages.chat.edit_events import ContextReader, EditHandlers, EventContext
from ui.pages.chat.message_list import data, node_of, text_of
from ui.pages.chat.navigation import ConversationState, TabView
from ui.pages.chat.panel import ChatPanel, TabContext, Updates
from ui.pages.chat.readers import Reader, TabReaders
from ui.pages.settings_panel import SettingsPanel
from ui.render.status import Failure

READY_SECONDS = 2.0  # a question waits this long for its page, which may never open after a restart
Act = Callable[[ConversationState], ConversationState]


class ChatEvents:
    """Event handlers. Their last inputs are those that ContextReader reads."""

    def __init__(
        self,
        panel: ChatPanel,
        answerer: Answerer,
        answers: RunningAnswers,
        readers: TabReaders,
        *,
        edits: EditHandlers,
        read: ContextReader,
    ) -> None:
        self._panel, self._answerer, self._answers, self._readers = panel, answerer, answers, readers
        self._edits, self._read = edits, read
        self._ready = BoundedDict[str, None]()  # sessions whose page has opened its conversation

    async def send(self, request: gr.Request, asked: gr.EventData, *inputs: Any) -> Updates:
        """Send a question; it goes back into the box while another answer is written."""
        event, question = self._read(request, inputs), text_of(asked)
        if not question.strip():
            return self._panel.no_update()
        reader = self._readers.get(event.session)
        if reader is not None and reader.is_waiting:
            return await self._edits.refresh(request, *inputs, box=question)
        return await self._begin(event, _asking(question), question)

    async def regenerate(self, request: gr.Request, clicked: gr.EventData, *inputs: Any) -> Updates:
        """Generate another version of an answer, or the first answer to an unanswered question."""
        node = node_of(clicked)
        return await self._begin(self._read(request, inputs), lambda here: here.regenerate(node or None))

    async def continue_answer(self, request: gr.Request, *inputs: Any) -> Updates:
        """Continue the last answer."""
        return await self._begin(self._read(request, inputs), lambda here: here)

    async def edit(self, request: gr.Request, edited: gr.EventData, *inputs: Any) -> Updates:
        """Send an edited version of a question, or show one of an answer."""
        node, text = node_of(edited), text_of(edited)
        if not text.strip():
            return await self._edits.refresh(request, *inputs)
        if data(edited).get("role") == "assistant":
            return await self._edits.apply(request, inputs, lambda here: here.edit(node, text))
        return await self._begin(self._read(request, inputs), lambda here: here.edit(node, text))

    async def fork(self, request: gr.Request, chosen: gr.EventData, *inputs: Any) -> Updates:
        """Begin another version of an answer with a text, and go on from there."""
        node, text = node_of(chosen), text_of(chosen)
        if not text.strip():
            return await self.regenerate(request, chosen, *inputs)
        return await self._begin(self._read(request, inputs), lambda here: here.edit(node, text))

    async def stream(self, request: gr.Request) -> AsyncGenerator[Updates, None]:
        """Show this tab's answer while it is written; it goes on when the reader disconnects."""
        yield self._panel.no_update()  # Gradio wants at least one
        reader = self._readers.get(str(request.session_hash))
        if reader is None or reader.answer is None or reader.followed:
            return
        reader.followed = True
        try:
            async with aclosing(self._shown(reader, reader.answer)) as updates:
                async for update in updates:
                    yield update
        except (GeneratorExit, asyncio.CancelledError):  # the connection ended, and maybe not the tab
            reader.lost = True
            raise

    async def _shown(self, reader: Reader, answer: RunningAnswer) -> AsyncGenerator[Updates, None]:
        """Yield the updates that show an answer in a tab, until it ends or the tab turns away."""
        with answer.reading(reader.changed):
            while reader.is_waiting:
                await reader.next_change()
                if reader.is_waiting and not answer.progress.done:
                    try:
                        update = self._panel.show_progress(answer.node, answer.progress, reader.tab)
                    except Exception:  # of the page itself: `finish` shows what there is
                        answer.cancel()
                        while not answer.done:
                            await reader.next_change()
                        raise
                    yield update
        if not reader.shown:
            yield self._panel.no_update()  # Gradio sends the last update again when an event ends

    async def finish(self, request: gr.Request) -> Updates:
        """Show the final state of this tab's answer, or its error."""
        session = str(request.session_hash)
        reader = self._readers.get(session)
        if reader is None or reader.answer is None or reader.there is None or not reader.answer.done:
            return self._panel.no_update()
        self._readers.leave(session)
        error = reader.answer.failure
        if error is None:
            try:
                show, node = self._panel.show_ended, reader.answer.node.id
                return await self._panel.off_loop(
                    show, reader.there, node, reader.answer.progress, reader.tab
                )
            except Exception as unforeseen:  # noqa: BLE001 - the boundary, as above
                error = unforeseen
        return await self._show_failure(reader, reader.answer, failure(error))

    async def _show_failure(self, reader: Reader, answer: RunningAnswer, error: Failure) -> Updates:
        """Show what was written of an answer that cannot be kept, or else the chat without it."""
        if isinstance(error, StoreError) and answer.progress.text:
            return self._panel.show_unsaved(reader.ended, answer.node, error, reader.tab)
        return await self._show_error(error, reader.tab, reader.question)

    async def open(self, request: gr.Request, current: str | None) -> Updates:
        """Show a conversation at its saved leaf; "" or a deleted one starts a new conversation.

        The tab follows an answer that is under way there. A question that is sent while the page still loads
        has already opened its conversation.
        """
        event = self._read(request, (TabView(), current, None))
        self._ready[event.session] = None
        if self._readers.is_current(event.session, event.tab.current):
            return await self._edits.refresh(request, TabView(), current, None, translate=True)
        self._readers.leave(event.session)
        try:
            state, answer = await self._state_and_answer(event)
        except NotFound:
            state, answer = self._panel.state(replace(event.tab, current="")), None  # reads nothing
        except StoreError as error:
            return await self._show_error(error, event.tab)
        if answer is None:
            return self._panel.show_opened(state, event.tab)
        state = state.with_answer(answer.node)
        reader = Reader(replace(event.tab, view=state.view, current=state.view.key), state.view.key)
        reader.begin(answer, state)
        self._readers.set(event.session, reader)
        return self._panel.show_opened(state, event.tab, follow=True)

    async def _state_and_answer(self, event: EventContext) -> tuple[ConversationState, RunningAnswer | None]:
        """Return the state of a tab, and the answer that is under way where it looks."""
        owner, key = event.tab.owner, event.tab.current
        while True:
            may_end = key in self._answers.under_way(owner)
            state = await self._state(event)
            answer = self._answers.at(owner, key, state.last)
            if answer is not None or not may_end or key in self._answers.under_way(owner):
                return state, answer
            # It has ended meanwhile: what was read may be without its end.

    async def _state(self, event: EventContext) -> ConversationState:
        return await self._panel.off_loop(self._panel.state, event.tab)

    async def _show_error(self, error: Failure, tab: TabContext, question: str | None = None) -> Updates:
        return await self._panel.off_loop(self._panel.show_error, error, tab, question)

    async def stop(self, request: gr.Request) -> None:
        """Stop the answer that this tab shows."""
        self._readers.stop(str(request.session_hash))

    async def close(self, request: gr.Request) -> None:
        """Forget a closed tab; its answer goes on."""
        self._ready.pop(str(request.session_hash), None)
        self._readers.leave(str(request.session_hash))

    async def _begin(self, event: EventContext, start: Act, question: str | None = None) -> Updates:
        """Start an answer in the state that `start` returns; an error gives `question` back."""
        await self._until_ready(event)
        reader = self._new_reader(event, question)
        try:
            system_prompt, sampling = SettingsPanel.read(event.settings)
            admitted = event.admit()  # before anything is written
            here = await self._state(event)
            there = await self._panel.off_loop(start, here)
        except Exception as error:  # noqa: BLE001 - the boundary: any error ends the turn
            self._readers.drop(event.session, reader)
            return await self._show_error(failure(error), event.tab, question)
        if reader.stopped and not reader.shown:  # the tab has changed the conversation meanwhile
            await self._discard(here, there)
            return self._panel.no_update()
        reader.key = there.view.key
        answer = self._continued_already(there)
        if answer is None:
            task = Task(here.owner, reader.key, tuple(there.path), system_prompt, sampling, event.model)
            answer = RunningAnswer(task)
            writing = self._write(answer, admitted, reader, partial(self._discard, here, there))
            self._answers.start(answer, writing)
        reader.begin(answer, there)
        if not reader.shown:  # the tab has turned to another chat
            return self._panel.no_update()
        return self._panel.show_started(here, there, event.tab)

    def _continued_already(self, there: ConversationState) -> RunningAnswer | None:
        """Return the answer under way that another tab continues: two would overwrite each other's text."""
        if there.last is None or there.last.role != "assistant":
            return None
        found = self._answers.at(there.owner, there.view.key, there.last)
        return None if found is None or found.stopped else found

    def _new_reader(self, event: EventContext, question: str | None) -> Reader:
        """Make the tab the reader of an answer to come; in the same chat the one that it shows is stopped."""
        reader = Reader(event.tab, event.tab.view.key or event.tab.current, question)
        before = self._readers.get(event.session)
        if before is not None and before.key == reader.key:
            before.stop()
        self._readers.set(event.session, reader)
        return reader

    async def _until_ready(self, event: EventContext) -> None:
        """Wait for the page to load: it would show a new chat over the one that is about to begin."""
        for _ in range(round(READY_SECONDS / 0.05)):
            if event.session in self._ready or event.tab.view.key or event.tab.current:
                break
            await asyncio.sleep(0.05)
        self._ready[event.session] = None

    async def _write(
        self,
        answer: RunningAnswer,
        admitted: AbstractContextManager[None],
        asker: Reader,
        discard: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Write the answer, or record its failure; `admitted` is held while it is written.

        What it has written before a fault of the program is kept. A question that is not answered goes back
        to the tab that has asked it, by `discard`; when that has turned away, it stays in the chat.
        """
        try:
            with admitted:
                await self._answerer.write(answer)
            if answer.progress.error is not None and not answer.progress.text:
                raise answer.progress.error
        except Exception as error:  # noqa: BLE001 - the boundary: the page would wait for good
            reason = failure(error)
            if isinstance(reason, Unforeseen) and answer.progress.text:
                answer.progress = replace(answer.progress, error=reason)
                return
            answer.failure = reason
            if asker.shown:
                await discard()

    async def _discard(self, here: ConversationState, there: ConversationState) -> None:
        """Remove the question that `there` has added to `here`, since it is not answered."""
        with suppress(NotFound, StoreError):
            await self._panel.off_loop(here.discard, there)


def failure(error: Exception) -> Failure:
    """Return an error as one that the page explains."""
    return error if isinstance(error, RateLimitExceeded | NotFound | StoreError) else foreseen(error)


def _asking(question: str) -> Act:
    return lambda here: here.ask(question, here.view.leaf)
