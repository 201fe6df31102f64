"""Handlers of events that generate nothing: undo, redo, delete, restore, rate, switch between versions."""

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
from ui.generation.sessions import BoundedDict
from ui.i18n.words import translator
from ui.pages.chat.message_list import data, node_of, text_of
from ui.pages.chat.navigation import ConversationState, Deleted
from ui.pages.chat.panel import ChatPanel, TabContext, Updates
from ui.pages.chat.readers import TabReaders

MAX_NOTE = 2000  # characters


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
        self._deleted = BoundedDict[str, Deleted]()  # what each session deleted last

    async def apply(
        self,
        request: gr.Request,
        inputs: Sequence[Any],
        act: Callable[[ConversationState], ConversationState],
    ) -> Updates:
        """Show the result of `act`; an answer under way in the tab is cancelled."""
        event = self._read(request, inputs)
        return await self._change(event, lambda state: self._panel.show(act(state), event.tab))

    async def refresh(
        self, request: gr.Request, *inputs: Any, box: str | None = None, translate: bool = False
    ) -> Updates:
        """Show all messages, since the page has others than the server thought; `box` gets a text.

        With `translate` the texts of the page are sent as well.
        """
        event = self._read(request, inputs)
        show = self._panel.show_opened if translate else self._panel.show
        return await self._with_state(event, lambda state: show(state, event.tab, box=box))

    async def switch(self, request: gr.Request, chosen: gr.EventData, *inputs: Any) -> Updates:
        """Show another version of a message."""
        return await self.apply(request, inputs, lambda state: state.switch(node_of(chosen)))

    async def undo(self, request: gr.Request, clicked: gr.EventData, *inputs: Any) -> Updates:
        """Move a question, by default the last one, back into the box."""
        event, node = self._read(request, inputs), node_of(clicked)

        def undone(state: ConversationState) -> Updates:
            before, question = state.undo(node or None)
            return self._panel.show(before, event.tab, box=question)

        return await self._change(event, undone)

    async def redo(self, request: gr.Request, *inputs: Any) -> Updates:
        """Undo an undo."""
        return await self.apply(request, inputs, ConversationState.redo)

    async def delete(self, request: gr.Request, clicked: gr.EventData, *inputs: Any) -> Updates:
        """Delete a message and all below it; `restore` brings them back."""
        event, node = self._read(request, inputs), node_of(clicked)

        def without(state: ConversationState) -> Updates:
            after, self._deleted[event.session] = state.delete(node)
            count, t = len(self._deleted[event.session].nodes), event.tab.t
            words = t("bar.deleted_one") if count == 1 else t("bar.deleted_many", count=t.number(count))
            return self._panel.show(after, event.tab, undo={"text": words, "button": t("bar.restore")})

        return await self._change(event, without)

    async def restore(self, request: gr.Request, *inputs: Any) -> Updates:
        """Bring back what this tab has deleted last."""
        event = self._read(request, inputs)
        deleted = self._deleted.pop(event.session, None)

        def restored(state: ConversationState) -> Updates:
            if deleted is None or deleted.key != state.view.key:
                return self._panel.show(state, event.tab)
            return self._panel.show(state.restore(deleted), event.tab)

        return await self._with_state(event, restored)

    async def rate(self, request: gr.Request, rated: gr.EventData, *inputs: Any) -> Updates:
        """Save a thumb up or down, and ask for a note."""
        event, node, opinion = self._read(request, inputs), node_of(rated), data(rated).get("opinion")
        chosen: Opinion | None = "like" if opinion == "like" else "dislike" if opinion == "dislike" else None

        def shown(state: ConversationState) -> Updates:
            after = state.rate(node, chosen, state.message(node).note)
            return self._panel.show(after, event.tab, asking=node if chosen else None)

        return await self._with_state(event, shown)

    async def save_note(self, request: gr.Request, written: gr.EventData, *inputs: Any) -> Updates:
        """Save the note on an answer that was rated."""
        event, node, note = self._read(request, inputs), node_of(written), text_of(written)

        def saved(state: ConversationState) -> Updates:
            after = state.rate(node, state.message(node).opinion, note.strip()[:MAX_NOTE])
            return self._panel.show(after, event.tab)

        return await self._with_state(event, saved)

    async def _change(self, event: EventContext, show: Callable[[ConversationState], Updates]) -> Updates:
        """Like `_with_state`, for a change: an answer under way in the tab is cancelled."""
        self._readers.detach(event.session)
        return await self._with_state(event, show)

    async def _with_state(self, event: EventContext, show: Callable[[ConversationState], Updates]) -> Updates:
        """Return what `show` returns for the tab's state, or its error. It runs in a thread."""

        def shown() -> Updates:
            try:
                return show(self._panel.state(event.tab))
            except (NotFound, StoreError) as error:
                return self._panel.show_error(error, event.tab)

        return await self._panel.off_loop(shown)
