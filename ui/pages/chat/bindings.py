"""Connects the chat panel's components to its handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui.pages.chat.edit_events import EditHandlers
from ui.pages.chat.generation_events import ChatEvents
from ui.pages.chat.message_toolbar import Updates
from ui.pages.chat.navigation import ConversationState
from ui.pages.chat.panel import ChatPanel

CHAT_QUEUE = "chat"  # the page and the API share one limit


class ChatBindings:
    """The events of one panel; `answered` are those after which the history has changed."""

    def __init__(
        self,
        panel: ChatPanel,
        events: ChatEvents,
        deeds: EditHandlers,
        *,
        settings: Sequence[gr.components.Component],
        concurrency: int,
        model: gr.components.Component | None = None,
    ) -> None:
        """`concurrency` answers may be under way (or wait in the engine) at once; `model` holds a key."""
        self.panel, self.events, self._deeds = panel, events, deeds
        tab = [panel.view, panel.current, model or gr.State(None), *settings]
        # Without `postprocess`: see ui/server/page.py
        shared = {"show_progress": "hidden", "api_visibility": "private", "postprocess": False}
        self.quick: dict[str, Any] = {"queue": False, **shared}
        self._grow: dict[str, Any] = {
            "outputs": panel.growing,
            "concurrency_limit": concurrency,
            "concurrency_id": CHAT_QUEUE,
            **shared,
        }
        self.answered = [
            self._answer(panel.box.submit, events.send, [panel.box, *tab]),
            self._answer(panel.chatbot.example_select, events.example, tab),
            self._answer(panel.chatbot.retry, events.again, tab),
            self._answer(panel.chatbot.edit, events.edit, tab),
            self._answer(panel.bar.answer.click, events.again, tab),
            self._answer(panel.bar.go_on.click, events.go_on, tab),
        ]
        panel.box.stop(events.stop, None, None, **self.quick)
        self._quick(tab[:3])

    def _answer(self, clicked: Any, begin: Any, inputs: Sequence[gr.components.Component]) -> Any:
        """Begin, grow, end; returns the last event."""
        begun = clicked(begin, list(inputs), self.panel.outputs, **self.quick)
        grown = begun.then(self.events.grow, None, **self._grow)
        return grown.then(self.events.end, None, self.panel.outputs, **self.quick)

    def _quick(self, tab: list[Any]) -> None:
        panel, deeds, quick = self.panel, self._deeds, {"outputs": self.panel.outputs, **self.quick}
        panel.chatbot.undo(deeds.undo, tab, **quick)
        # Marked and unmarked at once, the second click would else be lost while the first is under way.
        panel.chatbot.select(deeds.mark, tab, trigger_mode="always_last", **quick)
        panel.chatbot.like(deeds.judge, tab, **quick)
        bar, note = panel.bar, panel.note
        bar.earlier.click(self._act(lambda here: here.turn(-1)), tab, **quick)
        bar.later.click(self._act(lambda here: here.turn(1)), tab, **quick)
        bar.redo.click(deeds.redo, [panel.box, *tab], **quick)
        bar.delete.click(deeds.ask_to_delete, tab, **quick)
        bar.keep.click(self._act(lambda here: here), tab, **quick)
        bar.sure.click(self._act(ConversationState.cut_marked), tab, **quick)
        for kept in (note.save.click, note.text.submit):
            kept(deeds.note, [note.text, note.node, *tab], **quick)
        note.close.click(note.hidden, None, **quick)

    def _act(self, act: Any) -> Any:
        deeds = self._deeds

        async def handler(request: gr.Request, *tab: Any) -> Updates:
            return await deeds.act(request, tab, act)

        return handler
