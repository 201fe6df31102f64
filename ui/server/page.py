"""The Gradio pages, assembled from their panels: the chat at `/`, `/compare` and `/quality`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from ui.conversations.store import Store
from ui.generation.answering import Answerer
from ui.generation.running import RunningAnswers
from ui.generation.sessions import ActiveStreams
from ui.gradio_patches import fast_blocks
from ui.models.registry import Models, acquire_model
from ui.pages.assets import FIXES
from ui.pages.chat.address import keep_address
from ui.pages.chat.bindings import bind_events
from ui.pages.chat.drafts import keep_drafts
from ui.pages.chat.edit_events import ContextReader, EditHandlers
from ui.pages.chat.generation_events import ChatEvents
from ui.pages.chat.gradio_api import add_chat_endpoint
from ui.pages.chat.model_picker import ModelsPanel
from ui.pages.chat.panel import ChatPanel
from ui.pages.chat.probability_events import ProbabilityEvents
from ui.pages.chat.readers import TabReaders
from ui.pages.compare.panel import ComparePanel
from ui.pages.history.panel import HistoryPanel
from ui.pages.quality import zero_gpu
from ui.pages.quality.panel import QualityPanel
from ui.pages.settings_panel import SettingsPanel
from ui.pages.shell import head_button, line_of_text, settings_button
from ui.static import STATIC

SHORTCUTS = STATIC / "shortcuts.js"


def build_page(
    models: Models,
    concurrency: int = 64,
    *,
    own_machine: bool = False,
    store: Store | None = None,
    detached_seconds: float = math.inf,
) -> gr.Blocks:
    """Return the Gradio app with all pages; `own_machine` means that no other machine can reach it.

    A `store` of None keeps conversations until the process ends. `concurrency` is the number of answers at
    once. It should exceed the engine's slots and queue, so that waiting and refusing is left to the engine,
    which knows the positions in its queue. `detached_seconds` as in `RunningAnswers`.
    """
    live, store = ActiveStreams(), store or Store()
    answers = RunningAnswers(store, detached_seconds)
    page = fast_blocks(
        title="GGUF Chat", fill_height=True, analytics_enabled=False, delete_cache=(3600, 3600)
    )
    with page:
        _chat(page, models, store, live, answers, concurrency=concurrency, own_machine=own_machine)
    with page.route("Compare", "/compare", show_in_navbar=False):
        _compare(page, models, store, live, answers, concurrency=concurrency)
    with page.route("Quality", "/quality", show_in_navbar=False):
        _quality(page, models, store, answers)
    # All events except answers are quick, and the engine's queue bounds the answers.
    page.queue(max_size=2 * concurrency, default_concurrency_limit=concurrency, api_open=False)
    return page


def _chat(
    page: gr.Blocks,
    models: Models,
    store: Store,
    live: ActiveStreams,
    answers: RunningAnswers,
    *,
    concurrency: int,
    own_machine: bool,
) -> None:
    info = models.default_info()
    settings = SettingsPanel(info.context, info.recommended)
    history = HistoryPanel(store, under_way=answers.look)
    with gr.Row(elem_id="head", equal_height=True):
        history.opener()
        picker = ModelsPanel(models, own_machine)
        new_chat = head_button("page.new_chat", "new-chat")
        settings_button()
    picker.show_below(info)
    acquire = partial(acquire_model, models.pool)
    answerer = Answerer(acquire, store, live, info.context, models.hashes)
    panel = ChatPanel(store, current=history.current, is_writing=answers.is_writing)
    read, readers = ContextReader(answerer.context_of), TabReaders()
    edits = EditHandlers(panel, readers, read)
    events = ChatEvents(panel, answerer, answers, readers, edits=edits, read=read)
    probabilities = ProbabilityEvents(panel, acquire, read)
    answered = bind_events(
        panel,
        events,
        edits,
        probabilities,
        settings=settings.components,
        concurrency=concurrency,
        model=picker.key,
    )
    picker.wire(page)
    settings.follow(picker.switched, picker.key, picker.info_of)
    history.new_chat_by(new_chat)
    history.wire(page)
    for event in answered:
        history.refresh_after(event)
        picker.tidy_after(event)
    history.on_open(events.open, panel.outputs)
    keep_drafts(page, history)
    keep_address(page, history.current)
    add_chat_endpoint(models.pool, live, concurrency)

    async def close(request: gr.Request) -> None:
        live.cancel(str(request.session_hash))  # answers of Gradio's API, which end with their client
        probabilities.cancel(str(request.session_hash))
        await events.close(request)

    _wire_common(page, close)


def _compare(
    page: gr.Blocks,
    models: Models,
    store: Store,
    live: ActiveStreams,
    answers: RunningAnswers,
    *,
    concurrency: int,
) -> None:
    info = models.default_info()
    settings = SettingsPanel(info.context, info.recommended)
    history = HistoryPanel(store, "compare", under_way=answers.look)
    _head(history, "compare.title", settings=True)
    ComparePanel(models, live, settings).wire(page, concurrency)

    def leave(request: gr.Request) -> None:
        live.cancel(str(request.session_hash))

    history.wire(page)
    _wire_common(page, leave)


def _quality(page: gr.Blocks, models: Models, store: Store, answers: RunningAnswers) -> None:
    history = HistoryPanel(store, "quality", settings=False, under_way=answers.look)
    _head(history, "quality.title")
    QualityPanel(models).wire(page)
    history.wire(page)
    if zero_gpu.is_on():
        zero_gpu.add_gpu_button()
    page.load(None, js=FIXES.read_text(encoding="utf-8"))


def _head(history: HistoryPanel, title: str, *, settings: bool = False) -> None:
    with gr.Row(elem_id="head", equal_height=True):
        history.opener()
        line_of_text(title, "h1", elem_id="page-title")
        if settings:
            settings_button()


def _wire_common(page: gr.Blocks, on_close: Callable[..., Any]) -> None:
    """Add a page's scripts; call `on_close` when its tab is closed."""
    for script in (SHORTCUTS, FIXES):
        page.load(None, js=script.read_text(encoding="utf-8"))
    page.unload(on_close)
