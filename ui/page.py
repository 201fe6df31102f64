"""The pages: the chat at `/` and the comparison at `/compare`, each put together from its panels."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from ui.api import add_chat_endpoint
from ui.chat_panel import ChatPanel
from ui.compare_panel import ComparePanel
from ui.live import LiveStreams
from ui.models import Models
from ui.models_panel import ModelsPanel
from ui.settings_panel import SettingsPanel
from ui.translation import text

TOGGLE_SETTINGS = "() => document.querySelector('#settings .toggle-button').click()"
OPEN_SETTINGS_WHEN_WIDE = f"() => {{ if (window.innerWidth > 1100) ({TOGGLE_SETTINGS})() }}"


def build(models: Models, concurrency: int = 64, *, own_machine: bool = False) -> gr.Blocks:
    """The pages over some models; `own_machine` when no other machine can reach them.

    `concurrency` answers may be under way at once; it should exceed the engine's slots and queue, so that
    the engine, which knows the places in its queue, is the one that makes people wait or turns them away.
    """
    live = LiveStreams()
    with models.pool.use() as backend:
        info = backend.info
    page: gr.Blocks = gr.Blocks(title="GGUF Chat", fill_height=True, analytics_enabled=False)
    with page:
        settings = SettingsPanel(info.context)
        with gr.Row(elem_id="head", equal_height=True):
            picker = ModelsPanel(models, own_machine)
            new_chat = _head_button("page.new_chat", "new-chat")
            _head_button("page.compare", "open-compare", link="compare")
            open_settings = _head_button("page.settings", "open-settings")
        picker.show_below(info)
        panel = ChatPanel(models.pool, picker.key, live)
        panel.wire(settings, new_chat, concurrency)
        picker.wire(page)
        add_chat_endpoint(models.pool, live, concurrency)
        _wire_the_rest(page, open_settings, live)
        page.load(None, js=OPEN_SETTINGS_WHEN_WIDE)
    with page.route("Compare", "/compare", show_in_navbar=False):
        settings = SettingsPanel(info.context)
        with gr.Row(elem_id="head", equal_height=True):
            gr.Markdown(text("compare.title"))
            _head_button("page.chat", "open-chat", link="./")
            open_settings = _head_button("page.settings", "open-settings")
        ComparePanel(models, live, settings).wire(page, concurrency)
        _wire_the_rest(page, open_settings, live)
    # Everything but answers is quick; the engine's own queue is the one that bounds the answers.
    page.queue(max_size=2 * concurrency, default_concurrency_limit=concurrency, api_open=False)
    return page


def _head_button(key: str, elem_id: str, link: str | None = None) -> gr.Button:
    return gr.Button(text(key), size="sm", variant="secondary", scale=0, elem_id=elem_id, link=link)


def _wire_the_rest(page: gr.Blocks, open_settings: gr.Button, live: LiveStreams) -> None:
    open_settings.click(None, js=TOGGLE_SETTINGS)
    page.unload(_closed(live))


def _closed(live: LiveStreams) -> Callable[[gr.Request], None]:
    def closed(request: gr.Request) -> None:
        live.cancel(str(request.session_hash))

    return closed
