"""The pages: the chat at `/`, the comparison at `/compare`, `/quality`; each put together from its panels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.state_holder import SessionState

from ui.conversations.store import Store
from ui.generation.answering import Answerer
from ui.generation.sessions import ActiveStreams
from ui.i18n.gradio import text
from ui.models.registry import Models, serving
from ui.pages.assets import FIXES
from ui.pages.chat.bindings import bind_events
from ui.pages.chat.edit_events import ContextReader, EditHandlers
from ui.pages.chat.generation_events import ChatEvents
from ui.pages.chat.gradio_api import add_chat_endpoint
from ui.pages.chat.model_picker import ModelsPanel
from ui.pages.chat.panel import ChatPanel
from ui.pages.compare.panel import ComparePanel
from ui.pages.history.panel import HistoryPanel
from ui.pages.quality.panel import QualityPanel
from ui.pages.settings_panel import SettingsPanel
from ui.static import STATIC

LOOK_SECONDS = 0.02  # how often Gradio's queue looks for work; its own choice is a thousand times a second


class FastBlocks(gr.Blocks):
    """Events with `postprocess=False` send the dict that their handler gives as it is.

    For each output in it that is a `gr.update`, and each that is missing, Gradio makes the session's
    component anew, with a description for its API: 0.2 ms of the event loop for a Button, 3 for a Chatbot.
    The others go through a thread each. All that comes of it is a copy on the server of the properties that
    the browser has, for inputs that are checked against them (a Radio's choices).
    """

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """What the browser is sent for each output. What a State holds stays here."""
        if block_fn.postprocess or state is None or not isinstance(predictions, dict):
            return await super().postprocess_data(block_fn, predictions, state)
        sent: list[Any] = []
        for block in block_fn.outputs:
            if block.stateful and block in predictions:
                state[block._id] = predictions[block]
            sent.append(None if block.stateful else predictions.get(block, gr.skip()))
        return sent

    def queue(self, *args: Any, **kwargs: Any) -> FastBlocks:
        """As Gradio's, but it looks less often for work, never for progress bars, and keeps no statistics."""
        super().queue(*args, **kwargs)
        self._queue.sleep_when_free = LOOK_SECONDS
        self._queue.progress_update_sleep_when_free = 1.0  # there are none
        self._queue.ANAYLTICS_CACHE_FREQUENCY = 10**9  # a pandas table after each event, for /monitoring
        return self


KEYS = STATIC / "shortcuts.js"
MARKING = STATIC / "message_keyboard.js"
TOGGLE_SETTINGS = "() => document.querySelector('#settings .toggle-button').click()"
OPEN_SETTINGS_WHEN_WIDE = f"() => {{ if (window.innerWidth > 1100) ({TOGGLE_SETTINGS})() }}"


def build(
    models: Models, concurrency: int = 64, *, own_machine: bool = False, store: Store | None = None
) -> gr.Blocks:
    """The pages over some models; `own_machine` when no other machine can reach them.

    A `store` of None keeps conversations until the process ends. `concurrency` answers may be under way at
    once; it should exceed the engine's slots and queue, so that the engine, which knows the places in its
    queue, is the one that makes people wait or turns them away.
    """
    live, store = ActiveStreams(), store or Store()
    page: gr.Blocks = FastBlocks(
        title="GGUF Chat", fill_height=True, analytics_enabled=False, delete_cache=(3600, 3600)
    )
    with page:
        _chat(page, models, store, live, concurrency=concurrency, own_machine=own_machine)
    with page.route("Compare", "/compare", show_in_navbar=False):
        _compare(page, models, live, concurrency)
    with page.route("Quality", "/quality", show_in_navbar=False):
        _quality(page, models)
    # Everything but answers is quick; the engine's own queue is the one that bounds the answers.
    page.queue(max_size=2 * concurrency, default_concurrency_limit=concurrency, api_open=False)
    return page


def _chat(
    page: gr.Blocks, models: Models, store: Store, live: ActiveStreams, *, concurrency: int, own_machine: bool
) -> None:
    info = models.default_info()
    settings = SettingsPanel(info.context, info.recommended)
    history = HistoryPanel(store)
    with gr.Row(elem_id="head", equal_height=True):
        history.opener()
        picker = ModelsPanel(models, own_machine)
        new_chat = _head_button("page.new_chat", "new-chat")
        _head_button("page.compare", "open-compare", link="compare")
        _head_button("page.quality", "open-quality", link="quality")
        open_settings = _head_button("page.settings", "open-settings")
    picker.show_below(info)
    answerer = Answerer(partial(serving, models.pool), store, live, info.context)
    panel = ChatPanel(store, info.context, current=history.current, is_writing=answerer.writes)
    read = ContextReader(answerer.context_of)
    edits = EditHandlers(panel, live, read)
    events = ChatEvents(panel, answerer, live, edits, read)
    answered = bind_events(
        panel, events, edits, settings=settings.components, concurrency=concurrency, model=picker.key
    )
    picker.wire(page)
    settings.follow(picker.switched, picker.key, picker.info_of)
    history.new_chat_by(new_chat)
    history.wire(page)
    for event in answered:
        history.refresh_after(event)
    history.on_open(events.open, panel.outputs)
    add_chat_endpoint(models.pool, live, concurrency)
    _wire_the_rest(page, open_settings, events.close)
    page.load(None, js=MARKING.read_text(encoding="utf-8"))  # after shortcuts.js
    page.load(None, js=OPEN_SETTINGS_WHEN_WIDE)


def _compare(page: gr.Blocks, models: Models, live: ActiveStreams, concurrency: int) -> None:
    info = models.default_info()
    settings = SettingsPanel(info.context, info.recommended)
    with gr.Row(elem_id="head", equal_height=True):
        gr.Markdown(text("compare.title"))
        _head_button("page.chat", "open-chat", link="./")
        open_settings = _head_button("page.settings", "open-settings")
    ComparePanel(models, live, settings).wire(page, concurrency)
    _wire_the_rest(page, open_settings, _leaving(live))


def _quality(page: gr.Blocks, models: Models) -> None:
    with gr.Row(elem_id="head", equal_height=True):
        gr.Markdown(text("quality.title"))
        _head_button("page.chat", "open-chat", link="./")
    QualityPanel(models).wire(page)
    page.load(None, js=FIXES.read_text(encoding="utf-8"))


def _head_button(key: str, elem_id: str, link: str | None = None) -> gr.Button:
    return gr.Button(text(key), size="sm", variant="secondary", scale=0, elem_id=elem_id, link=link)


def _wire_the_rest(page: gr.Blocks, open_settings: gr.Button, leave: Callable[..., Any]) -> None:
    open_settings.click(None, js=TOGGLE_SETTINGS)
    for script in (KEYS, FIXES):
        page.load(None, js=script.read_text(encoding="utf-8"))
    page.unload(leave)


def _leaving(live: ActiveStreams) -> Callable[[gr.Request], None]:
    def leave(request: gr.Request) -> None:
        live.leave(str(request.session_hash))

    return leave
