"""The page: the model's facts, the conversation, the settings, and the API endpoint, put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from engine.backend import ChatBackend
from ui.api import add_chat_endpoint
from ui.chat_panel import ChatPanel
from ui.gguf_choice import is_embedded
from ui.live import LiveStreams
from ui.settings_panel import SettingsPanel
from ui.status import model_facts, model_name
from ui.texts import ENGLISH, Words, words
from ui.translation import text

TOGGLE_SETTINGS = "() => document.querySelector('#settings .toggle-button').click()"
OPEN_SETTINGS_WHEN_WIDE = f"() => {{ if (window.innerWidth > 1100) ({TOGGLE_SETTINGS})() }}"


def build(backend: ChatBackend, concurrency: int = 64) -> gr.Blocks:
    """The page for one backend.

    `concurrency` answers may be under way at once; it should exceed the engine's slots and queue, so that
    the engine, which knows the places in its queue, is the one that makes people wait or turns them away.
    """
    live = LiveStreams()
    page: gr.Blocks = gr.Blocks(title="GGUF Chat", fill_height=True, analytics_enabled=False)
    with page:
        settings = SettingsPanel(backend.info.context)
        with gr.Row(elem_id="head", equal_height=True):
            gr.HTML(model_name(backend.info), padding=False)
            new_chat = gr.Button(
                text("page.new_chat"), size="sm", variant="secondary", scale=0, elem_id="new-chat"
            )
            open_settings = gr.Button(
                text("page.settings"), size="sm", variant="secondary", scale=0, elem_id="open-settings"
            )
        facts = gr.HTML(_facts(backend, ENGLISH), padding=False, elem_id="facts")
        panel = ChatPanel(backend, live)
        panel.wire(settings, new_chat, concurrency)
        add_chat_endpoint(backend, live, concurrency)
        open_settings.click(None, js=TOGGLE_SETTINGS)
        page.load(None, js=OPEN_SETTINGS_WHEN_WIDE)
        page.load(
            _translated(backend),
            outputs=[facts],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        page.unload(_closed(live))
    # Everything but answers is quick; the engine's own queue is the one that bounds the answers.
    page.queue(max_size=2 * concurrency, default_concurrency_limit=concurrency, api_open=False)
    return page


def _facts(backend: ChatBackend, say: Words) -> str:
    return model_facts(backend.info, is_embedded(Path(backend.info.path)), say)


def _translated(backend: ChatBackend) -> Callable[[gr.Request], str]:
    """What Gradio does not translate in the browser; see ui/translation.py."""

    def translated(request: gr.Request) -> str:
        return _facts(backend, words(request))

    return translated


def _closed(live: LiveStreams) -> Callable[[gr.Request], None]:
    def closed(request: gr.Request) -> None:
        live.cancel(str(request.session_hash))

    return closed
