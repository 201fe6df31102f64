"""Handlers of clicks that generate nothing: undo, redo, mark, delete, rate, switch between branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.auth.access import Admit, OwnerOf, admit
from ui.auth.identity import owner_of
from ui.conversations.model import Opinion
from ui.conversations.store import NotFound, StoreError
from ui.i18n.words import translator
from ui.pages.chat.message_toolbar import Updates
from ui.pages.chat.navigation import ConversationState
from ui.pages.chat.panel import ChatPanel, TabContext
from ui.pages.chat.readers import TabReaders


@dataclass(frozen=True)
class EventContext:
    """The inputs that all chat events have in common.

    `admit()` counts a request and returns a context manager, which is held while the answer is written. It
    raises RateLimitExceeded.
    """

    tab: TabContext
    session: str
    model: str | None
    settings: Sequence[Any]
    admit: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class ContextReader:
    """Parses the common inputs of a Gradio event into an EventContext.

    `context_of` returns the context of a model's key, in tokens.
    """

    context_of: Callable[[str | None], int]
    owner_of: OwnerOf = owner_of
    admit: Admit = admit

    def __call__(self, request: gr.Request, inputs: Sequence[Any]) -> EventContext:
        """Parse the tab's view, the open conversation, the model's key and the values of the settings."""
        view, current, model, *settings = inputs
        tab = TabContext(
            self.owner_of(request), view, current or "", self.context_of(model), translator(request)
        )
        return EventContext(tab, str(request.session_hash), model, settings, lambda: self.admit(request))


class EditHandlers:
    """Event handlers. Their last inputs are the tab's view, the open conversation and the model."""

    def __init__(self, panel: ChatPanel, readers: TabReaders, read: ContextReader) -> None:
        self._panel, self._readers, self._read = panel, readers, read

    async def apply(
        self,
        request: gr.Request,
        inputs: Sequence[Any],
        act: Callable[[ConversationState], ConversationState],
    ) -> Updates:
        """Show the result of `act`; an answer under way in the tab is cancelled."""
        event = self._read(request, inputs)
        self._readers.detach(event.session)
        return await self._with_state(event, lambda state: self._panel.show(act(state), event.tab))

    async def undo(self, request: gr.Request, *inputs: Any) -> Updates:
        """Move the last question back into the box."""
        event = self._read(request, inputs)
        self._readers.detach(event.session)
        return await self._with_state(event, lambda state: self._undone(state, event.tab))

    def _undone(self, state: ConversationState, tab: TabContext) -> Updates:
        before, question = state.undo()
        return self._panel.show(before, tab, question)

    async def redo(self, request: gr.Request, typed: str, *inputs: Any) -> Updates:
        """Undo an undo; the question leaves the box, unless it was edited there."""
        event = self._read(request, inputs)
        self._readers.detach(event.session)

        def redone(back: ConversationState) -> Updates:
            question = None if back.redoable is None else back.tree.nodes[back.redoable].text
            return self._panel.show(back.redo(), event.tab, "" if typed == question else None)

        return await self._with_state(event, redone)

    async def mark(self, request: gr.Request, clicked: gr.SelectData, *inputs: Any) -> Updates:
        """Mark the clicked message for the toolbar; an answer under way continues."""
        event, index = self._read(request, inputs), row_index(clicked.index)
        return await self._with_state(
            event, lambda state: self._panel.show_marked(state.mark(index), event.tab)
        )

    async def ask_to_delete(self, request: gr.Request, *inputs: Any) -> Updates:
        """Ask for confirmation before the marked message is deleted."""
        event = self._read(request, inputs)
        return await self._with_state(event, lambda state: self._panel.bar.ask_to_confirm(state, event.tab.t))

    async def rate(self, request: gr.Request, liked: gr.LikeData, *inputs: Any) -> Updates:
        """Save a thumb up or down, and ask for a note."""
        event, opinions = self._read(request, inputs), dict[object, Opinion]({True: "like", False: "dislike"})

        def rated(state: ConversationState) -> Updates:
            node = state.message_at(row_index(liked.index))
            after = state.rate(node.id, opinions.get(liked.liked), node.note)
            return self._panel.ask_feedback(after, after.tree.nodes[node.id], event.tab)

        return await self._with_state(event, rated)

    async def save_note(self, request: gr.Request, text: str, node: int | None, *inputs: Any) -> Updates:
        """Save the note on the rated answer."""

        def saved(state: ConversationState) -> Updates:
            if node is not None and node in state.tree.nodes:
                state.rate(node, state.tree.nodes[node].opinion, text.strip())
            return self._panel.note.hide()

        return await self._with_state(self._read(request, inputs), saved)

    async def _with_state(self, event: EventContext, show: Callable[[ConversationState], Updates]) -> Updates:
        """Return what `show` returns for the tab's state, or its error. It runs in a thread."""

        def shown() -> Updates:
            try:
                return show(self._panel.state(event.tab))
            except (NotFound, StoreError) as error:
                return self._panel.show_error(error, event.tab)

        return await self._panel.off_loop(shown)


def row_index(index: object) -> int:
    """Return the Chatbot's row index, or -1: other kinds of index are no integers."""
    return index if isinstance(index, int) else -1
