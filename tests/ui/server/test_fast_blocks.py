"""FastBlocks send the browser the same updates as Gradio's Blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
import orjson
import pytest
from gradio.queueing import Queue
from gradio.state_holder import SessionState

from ui.conversations.store import Store, StoreError
from ui.generation.streaming import Progress
from ui.gradio_patches import fast_blocks
from ui.pages.chat.navigation import ConversationState, TabView
from ui.pages.chat.panel import ChatPanel, TabContext, Updates

ASKED = TabContext("me", TabView(), "", 2048)
Show = Callable[[ChatPanel, ConversationState], Updates]


def sent(page: gr.Blocks, updates: Updates, *, unchanged: bool) -> tuple[Any, SessionState]:
    """Return the data sent to the browser for an event's updates, and the session's state."""
    event, state = next(iter(page.fns.values())), SessionState(page)
    event.postprocess = not unchanged
    data = orjson.loads(orjson.dumps(asyncio.run(page.postprocess_data(event, updates, state)), default=str))
    for update in data:
        if isinstance(update, dict) and update.get("props") == gr.skip():
            del update["props"]  # how Gradio marks an HTML component as unchanged
    return data, state


@pytest.mark.parametrize(
    "show",
    [
        lambda panel, place: panel.show_started(place.view_at(None), place, ASKED),
        lambda panel, place: panel.show_opened(place, ASKED),
        lambda panel, place: panel.show_ended(
            place, place.path[-1].id, Progress("<think>a</think> b"), ASKED
        ),
        lambda panel, place: panel.show_unsaved(place, place.path[-1], StoreError("full"), ASKED),
    ],
)
def test_the_browser_is_sent_what_gradio_would_send_and_nothing_is_made_anew(show: Show) -> None:
    store = Store()
    with fast_blocks() as page:
        panel = ChatPanel(store, current=gr.BrowserState(""), is_writing=lambda _: False)
        gr.Button().click(lambda: None, None, panel.outputs)
    there = panel.state(ASKED).ask("Why <b>?", None)
    store.add("me", there.view.key, there.path[-1].id, "assistant", "<think>a</think> b")
    here = panel.state(replace(ASKED, view=there.view))
    ours, state = sent(page, show(panel, here), unchanged=True)
    theirs, _ = sent(page, show(panel, here), unchanged=False)
    assert ours == theirs
    assert all(state[block._id] is block for block in panel.outputs if not block.stateful)
    assert state[panel.view._id] == show(panel, here).get(panel.view, TabView())


def test_the_queue_that_is_slowed_down_is_gradios() -> None:
    page = fast_blocks().queue(max_size=8)
    slowed = ("sleep_when_free", "progress_update_sleep_when_free", "ANAYLTICS_CACHE_FREQUENCY")
    plain = vars(Queue(True, 1, 1, 1, page))
    assert all(vars(page._queue)[name] > plain[name] for name in slowed)
