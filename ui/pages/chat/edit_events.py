"""What is done at once, on a click: undo, mark, delete, judge, go through versions."""

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
from ui.generation.sessions import ActiveStreams
from ui.i18n.words import translator
from ui.pages.chat.message_toolbar import Updates
from ui.pages.chat.navigation import ConversationState
from ui.pages.chat.panel import ChatPanel, TabContext


@dataclass(frozen=True)
class EventContext:
    """An event's inputs without what is asked.

    `admit()` counts a request, and lets it in for the time of the answer: `with` what it returns. It raises
    RateLimitExceeded.
    """

    where: TabContext
    session: str
    model: str | None
    settings: Sequence[Any]
    admit: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class ContextReader:
    """Reads events: `context_of` a model in tokens, `owner_of` a request, `admit` for an answer."""

    context_of: Callable[[str | None], int]
    owner_of: OwnerOf = owner_of
    admit: Admit = admit

    def __call__(self, request: gr.Request, tab: Sequence[Any]) -> EventContext:
        """`tab` is the tab's view, the open conversation, the model and the settings' values."""
        view, current, model, *settings = tab
        where = TabContext(
            self.owner_of(request), view, current or "", self.context_of(model), translator(request)
        )
        return EventContext(where, str(request.session_hash), model, settings, lambda: self.admit(request))


class EditHandlers:
    """The handlers. Their last inputs: the tab's view, the open conversation and the model."""

    def __init__(self, panel: ChatPanel, live: ActiveStreams, read: ContextReader) -> None:
        self._panel, self._live, self._asked = panel, live, read

    async def act(
        self, request: gr.Request, tab: Sequence[Any], act: Callable[[ConversationState], ConversationState]
    ) -> Updates:
        """Do something that is done at once; an answer under way in the tab ends."""
        asked = self._asked(request, tab)
        self._live.detach(asked.session)
        try:
            return self._panel.show(act(self._panel.place(asked.where)), asked.where)
        except (NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where)

    async def undo(self, request: gr.Request, *tab: Any) -> Updates:
        """Take the last question back into the box."""
        asked = self._asked(request, tab)
        self._live.detach(asked.session)
        try:
            place, question = self._panel.place(asked.where).undo()
        except (NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where)
        return self._panel.show(place, asked.where, question)

    async def redo(self, request: gr.Request, typed: str, *tab: Any) -> Updates:
        """Bring all of it again; the question leaves the box, unless it was changed there."""
        asked = self._asked(request, tab)
        self._live.detach(asked.session)
        try:
            back = self._panel.place(asked.where)
            question = None if back.redoable is None else back.tree.nodes[back.redoable].text
            return self._panel.show(back.redo(), asked.where, "" if typed == question else None)
        except (NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where)

    async def mark(self, request: gr.Request, clicked: gr.SelectData, *tab: Any) -> Updates:
        """A message was clicked: the bar is about it. An answer under way goes on."""
        asked = self._asked(request, tab)
        try:
            place = self._panel.place(asked.where).mark(row_index(clicked.index))
        except (NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where)
        return self._panel.marked(place, asked.where)

    async def ask_to_delete(self, request: gr.Request, *tab: Any) -> Updates:
        """Whether the message that was clicked is really to go."""
        asked = self._asked(request, tab)
        try:
            return self._panel.bar.asking(self._panel.place(asked.where), asked.where.t)
        except (NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where)

    async def judge(self, request: gr.Request, liked: gr.LikeData, *tab: Any) -> Updates:
        """A thumb was clicked: keep it, and offer a note."""
        asked, opinions = self._asked(request, tab), dict[object, Opinion]({True: "like", False: "dislike"})
        try:
            here = self._panel.place(asked.where)
            node = here.row(row_index(liked.index))
            there = here.judge(node.id, opinions.get(liked.liked), node.note)
        except (NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where)
        return self._panel.judging(there, there.tree.nodes[node.id], asked.where)

    async def note(self, request: gr.Request, text: str, node: int | None, *tab: Any) -> Updates:
        """Keep a note on the answer that was judged."""
        asked = self._asked(request, tab)
        try:
            here = self._panel.place(asked.where)
            if node is not None and node in here.tree.nodes:
                here.judge(node, here.tree.nodes[node].opinion, text.strip())
        except (NotFound, StoreError) as error:
            return self._panel.failed(error, asked.where)
        return self._panel.note.hidden()


def row_index(index: object) -> int:
    """The Chatbot's row; other components have other indices."""
    return index if isinstance(index, int) else -1
