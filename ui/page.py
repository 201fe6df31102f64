"""The pages: the chat at `/`, the comparison at `/compare`, `/quality`; each put together from its panels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ui.answering import Answerer
from ui.api import add_chat_endpoint
from ui.asked import Reader
from ui.chat_deeds import ChatDeeds
from ui.chat_events import ChatEvents
from ui.chat_panel import ChatPanel
from ui.chat_wiring import ChatWiring
from ui.compare_panel import ComparePanel
from ui.history_panel import HistoryPanel
from ui.lean import LeanBlocks
from ui.live import LiveStreams
from ui.models import Models
from ui.models_panel import ModelsPanel
from ui.quality_panel import QualityPanel
from ui.serving import serving
from ui.settings_panel import SettingsPanel
from ui.store import Store
from ui.theme import MEND
from ui.translation import text

KEYS = Path(__file__).with_name("keys.js")
MARKING = Path(__file__).with_name("marking.js")
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
    live, store = LiveStreams(), store or Store()
    page: gr.Blocks = LeanBlocks(
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
    page: gr.Blocks, models: Models, store: Store, live: LiveStreams, *, concurrency: int, own_machine: bool
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
    read = Reader(answerer.context_of)
    deeds = ChatDeeds(panel, live, read)
    events = ChatEvents(panel, answerer, live, deeds, read)
    wiring = ChatWiring(
        panel, events, deeds, settings=settings.components, concurrency=concurrency, model=picker.key
    )
    picker.wire(page)
    settings.follow(picker.switched, picker.key, picker.info_of)
    _connect(page, history, wiring, new_chat)
    add_chat_endpoint(models.pool, live, concurrency)
    _wire_the_rest(page, open_settings, events.close)
    page.load(None, js=MARKING.read_text(encoding="utf-8"))  # after keys.js: Escape stops before it unmarks
    page.load(None, js=OPEN_SETTINGS_WHEN_WIDE)


def _compare(page: gr.Blocks, models: Models, live: LiveStreams, concurrency: int) -> None:
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
    page.load(None, js=MEND.read_text(encoding="utf-8"))


def _head_button(key: str, elem_id: str, link: str | None = None) -> gr.Button:
    return gr.Button(text(key), size="sm", variant="secondary", scale=0, elem_id=elem_id, link=link)


def _connect(page: gr.Blocks, history: HistoryPanel, wiring: ChatWiring, new_chat: gr.Button) -> None:
    """The list follows the conversation, and the conversation the list."""
    history.new_chat_by(new_chat)
    history.wire(page)
    for event in wiring.answered:
        history.refresh_after(event)
    history.on_open(wiring.events.open, wiring.panel.outputs)


def _wire_the_rest(page: gr.Blocks, open_settings: gr.Button, leave: Callable[..., Any]) -> None:
    open_settings.click(None, js=TOGGLE_SETTINGS)
    for script in (KEYS, MEND):
        page.load(None, js=script.read_text(encoding="utf-8"))
    page.unload(leave)


def _leaving(live: LiveStreams) -> Callable[[gr.Request], None]:
    def leave(request: gr.Request) -> None:
        live.leave(str(request.session_hash))

    return leave
