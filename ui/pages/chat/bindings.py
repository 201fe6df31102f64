"""Binds the chat panel's components to its handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui.pages.chat.edit_events import EditHandlers
from ui.pages.chat.generation_events import ChatEvents
from ui.pages.chat.panel import ChatPanel
from ui.pages.chat.probability_events import ProbabilityEvents

CHAT_QUEUE = "chat"  # the page and the API share one limit
# Without `postprocess`: see ui/server/page.py
_SHARED: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "postprocess": False}
_QUICK: dict[str, Any] = {"queue": False, **_SHARED}


def bind_events(
    panel: ChatPanel,
    events: ChatEvents,
    edits: EditHandlers,
    probabilities: ProbabilityEvents,
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
    on = panel.messages.on

    def answer(event: str, begin: Any) -> Any:
        return shown(on(event)(begin, tab, panel.outputs, **_QUICK).then)

    def shown(listener: Any, **options: Any) -> Any:
        streamed = listener(events.stream, None, **streaming, **_SHARED, **options)
        return streamed.then(events.finish, None, panel.outputs, **_QUICK)

    answered = [
        answer("send", events.send),
        answer("edit", events.edit),
        answer("retry", events.regenerate),
        answer("answer", events.regenerate),
        answer("continue", events.continue_answer),
        answer("fork", events.fork),
        shown(on("follow"), trigger_mode="multiple"),
    ]
    on("probabilities")(probabilities.show, tab, panel.streamed, trigger_mode="multiple", **_QUICK)
    on("stop")(events.stop, None, None, **_QUICK)
    for event, handler in (
        ("refresh", edits.refresh),
        ("switch", edits.switch),
        ("undo", edits.undo),
        ("redo", edits.redo),
        ("delete", edits.delete),
        ("restore", edits.restore),
        ("rate", edits.rate),
        ("note", edits.save_note),
    ):
        # A second click would otherwise be lost while the first is under way.
        on(event)(handler, tab[:3], panel.outputs, trigger_mode="multiple", **_QUICK)
    return answered
