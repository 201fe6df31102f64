"""Binds the chat panel's components to its handlers."""

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
# Without `postprocess`: see ui/server/page.py
_SHARED: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "postprocess": False}
_QUICK: dict[str, Any] = {"queue": False, **_SHARED}


def bind_events(
    panel: ChatPanel,
    events: ChatEvents,
    edits: EditHandlers,
    *,
    settings: Sequence[gr.components.Component],
    concurrency: int,
    model: gr.components.Component | None = None,
) -> list[Any]:
    """Bind the panel's events; return those that end an answer, after which the history has changed.

    At most `concurrency` answers are under way or wait in the engine at once; `model` holds the model's key.
    """
    tab = [panel.view, panel.current, model or gr.State(None), *settings]
    streaming = {"outputs": panel.streamed, "concurrency_limit": concurrency, "concurrency_id": CHAT_QUEUE}

    def answer(listener: Any, begin: Any, inputs: Sequence[gr.components.Component]) -> Any:
        begun = listener(begin, list(inputs), events.outputs, **_QUICK)
        return shown(begun.then)

    def shown(listener: Any, **options: Any) -> Any:
        streamed = listener(events.stream, None, **streaming, **_SHARED, **options)
        return streamed.then(events.finish, None, panel.outputs, **_QUICK)

    answered = [
        answer(panel.box.submit, events.send, [panel.box, *tab]),
        answer(panel.chatbot.example_select, events.example, tab),
        answer(panel.chatbot.retry, events.regenerate, tab),
        answer(panel.chatbot.edit, events.edit, tab),
        answer(panel.bar.answer.click, events.regenerate, tab),
        answer(panel.bar.go_on.click, events.continue_answer, tab),
        shown(events.following.signal.change, trigger_mode="multiple"),
    ]
    panel.box.stop(events.stop, None, None, **_QUICK)
    _bind_edits(panel, edits, tab[:3])
    return answered


def _bind_edits(panel: ChatPanel, edits: EditHandlers, tab: list[Any]) -> None:
    quick = {"outputs": panel.outputs, **_QUICK}

    def applying(act: Any) -> Any:
        async def handler(request: gr.Request, *inputs: Any) -> Updates:
            return await edits.apply(request, inputs, act)

        return handler

    panel.chatbot.undo(edits.undo, tab, **quick)
    # A second click, which unmarks, would otherwise be lost while the first is under way.
    panel.chatbot.select(edits.mark, tab, trigger_mode="always_last", **quick)
    panel.chatbot.like(edits.rate, tab, **quick)
    bar, note = panel.bar, panel.note
    bar.earlier.click(applying(lambda state: state.switch_branch(-1)), tab, **quick)
    bar.later.click(applying(lambda state: state.switch_branch(1)), tab, **quick)
    bar.redo.click(edits.redo, [panel.box, *tab], **quick)
    bar.delete.click(edits.ask_to_delete, tab, **quick)
    bar.cancel.click(applying(lambda state: state), tab, **quick)
    bar.confirm.click(applying(ConversationState.delete_marked), tab, **quick)
    for listener in (note.save.click, note.text.submit):
        listener(edits.save_note, [note.text, note.node, *tab], **quick)
    note.close.click(note.hide, None, **quick)
