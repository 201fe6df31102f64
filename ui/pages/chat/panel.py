"""The chat page's conversation: its components, and their updates for a ConversationState.

The store holds the conversation; the list of messages only shows it. Events are handled in
generation_events.py and edit_events.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from ui.conversations.model import Node, Tree
from ui.conversations.store import NotFound, Store, StoreError
from ui.generation.streaming import Progress
from ui.i18n.words import ENGLISH, Translator
from ui.pages.chat.message_list import MessageList, translated
from ui.pages.chat.navigation import ConversationState, TabView, open_conversation, restore_conversation
from ui.render.message_items import message_item, message_items
from ui.render.status import (
    Failure,
    Status,
    error_status,
    meter_of,
    meter_while,
    not_saved_status,
    status,
)

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Updates = dict[Any, Any]


@dataclass(frozen=True)
class TabContext:
    """A tab's owner, view and model. `current` is the open conversation's id, which survives a restart.

    `context` is the model's, in tokens.
    """

    owner: str
    view: TabView
    current: str
    context: int
    t: Translator = ENGLISH


class ChatPanel:
    """The components of the conversation; its methods return updates for `outputs`."""

    def __init__(
        self,
        store: Store,
        *,
        current: gr.components.Component,
        is_writing: Callable[[int], bool],
    ) -> None:
        """Lay out the components. `current` holds a conversation's id."""
        self._store, self._is_writing = store, is_writing
        self.current, self.view = current, gr.State(TabView())
        self.messages = MessageList()
        self.outputs = [self.messages.chat, self.view, self.current]
        self.streamed = [self.messages.growing]

    async def off_loop(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call`, which uses the store, in a thread."""
        return await self._store.off_loop(call, *args, **kwargs)

    def state(self, tab: TabContext) -> ConversationState:
        """Load the state of a tab. Raises NotFound."""
        if tab.view.key:
            return open_conversation(self._store, tab.owner, tab.view)
        return restore_conversation(self._store, tab.owner, tab.current)

    def no_update(self) -> Updates:
        """Return an update that changes nothing: Gradio would take an empty dict for a value."""
        return {self.messages.growing: gr.skip()}

    def show(
        self,
        state: ConversationState,
        tab: TabContext,
        *,
        shown: ConversationState | None = None,
        asking: int | None = None,
        **changes: Any,
    ) -> Updates:
        """Show a state: all messages, or those from the first on that the state `shown` has not.

        `asking` is a rated message that may get a note. `changes` are further keys of the update, such as a
        text for the box.
        """
        path, writing, last = state.path, self._writing(state), state.last
        same = _in_common(shown.path, path) if shown else 0
        unanswered = not writing and last is not None and last.role == "user" and state.redoable is None
        page = {
            "from": same,
            "after": path[same - 1].id if same else None,
            "items": message_items(path[same:], state.tree, tab.t, asking=asking),
            "writing": writing,
            "redo": not writing and state.redoable is not None,
            "answer": unanswered,
            "status": None,
            "meter": meter_of(path, tab.context, tab.t),
        }
        return {self.messages.chat: page | changes, self.view: state.view, self.current: state.view.key}

    def show_opened(self, state: ConversationState, tab: TabContext, **changes: Any) -> Updates:
        """Show a conversation that was opened, or found when the page was loaded, in the tab's language.

        With `follow` among the changes the tab follows the answer that is under way.
        """
        return self.show(state, tab, **translated(tab.t), **changes)

    def show_started(self, here: ConversationState, state: ConversationState, tab: TabContext) -> Updates:
        """Show the question, before the answer begins. The tab shows the messages of `here` already."""
        changes = {"writing": True, "redo": False, "answer": False, "meter": None}
        return self.show(state, tab, shown=here, **changes)

    def show_progress(self, node: Node, progress: Progress, tab: TabContext) -> Updates:
        """Show an answer under way."""
        told = status(progress, tab.t)
        update = {
            "item": message_item(node, tab.t, writing=not progress.done) if progress.text else None,
            "status": _shown(told),
            "meter": meter_while(progress, tab.context, tab.t),
        }
        return {self.messages.growing: update}

    def show_ended(
        self, asked: ConversationState, answer: int, progress: Progress, tab: TabContext
    ) -> Updates:
        """Show a finished answer, or its error if it has no text; the tab shows `asked`."""
        there = open_conversation(asked.store, asked.owner, asked.view_at(answer).view)
        updates = self.show(there, tab, shown=asked.before(answer))
        if progress.error is not None or not progress.text.strip():
            updates[self.messages.chat]["status"] = _shown(status(progress, tab.t))
        return updates

    def show_unsaved(
        self, state: ConversationState, answer: Node, error: StoreError, tab: TabContext
    ) -> Updates:
        """Show an answer that could not be saved in full."""
        tree = Tree({**state.tree.nodes, answer.id: answer}, answer.id)
        return self.show(replace(state, tree=tree), tab, status=_shown(not_saved_status(error, tab.t)))

    def _writing(self, state: ConversationState) -> bool:
        """Return whether the last message, or an answer to it, is under way in any tab."""
        below = state.tree.children.get(state.tree.leaf, [])
        return any(self._is_writing(node.id) for node in state.path[-1:]) or any(map(self._is_writing, below))

    def show_error(self, error: Failure, tab: TabContext, question: str | None = None) -> Updates:
        """Show the conversation after an error, with the error; `question` goes back into the box.

        One that cannot be read stays on the page as it is.
        """
        told: dict[str, Any] = {"status": _shown(error_status(error, t=tab.t)), "box": question}
        try:
            return self.show(self.state(tab), tab, **told)
        except NotFound:
            return self.show(restore_conversation(self._store, tab.owner, ""), tab, **told)
        except Exception:  # noqa: BLE001 - the boundary: a page without this update would wait for good
            _log.exception("a conversation cannot be shown")
            return {self.messages.chat: told | {"items": None, "writing": False}}


def _in_common(shown: Sequence[Node], path: Sequence[Node]) -> int:
    """Return how many messages are the same at the beginning of two paths."""
    pairs = zip(shown, path, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].id == pair[1].id, pairs))


def _shown(told: Status) -> dict[str, str]:
    return {"text": told.text, "kind": told.kind}
