"""A user's limits apply to the comparison and to Gradio's API too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from engine.serving.model_pool import ModelPool
from tests.ui.fake_backend import FakeBackend
from ui.auth.access import Access
from ui.generation.sessions import ActiveStreams
from ui.models.catalog import Catalog
from ui.models.files import CatalogEntry
from ui.models.registry import Models
from ui.pages.chat.gradio_api import add_chat_endpoint
from ui.pages.compare.panel import ComparePanel
from ui.pages.settings_panel import SettingsPanel


def request(access: Access) -> Any:
    state = SimpleNamespace(access=access, visitor="visitor:x", is_known=True, user=None)
    return SimpleNamespace(headers={}, session_hash="tab", username=None, client=None, state=state)


async def last(updates: AsyncGenerator[Any, None]) -> Any:
    return [update async for update in updates][-1]


@pytest.fixture
def models() -> Models:
    catalog = Catalog(CatalogEntry(key, key, f"{key}.gguf") for key in "ab")
    return Models(catalog, ModelPool(lambda *_: FakeBackend(), catalog.keys(), "a"))


def test_the_comparison_counts_as_a_request(models: Models) -> None:
    with gr.Blocks():
        settings = SettingsPanel(2048)
        panel = ComparePanel(models, ActiveStreams(), settings)
    asked = request(Access(requests_per_minute=1))
    values = [component.value for component in settings.components]
    for text in ("Which one is best?", "1 requests a minute"):
        update = asyncio.run(last(panel._run(asked, "Why?", ["a", "b"], False, False, *values)))
        assert text in update[2]
    models.pool.close()


def test_an_answer_by_gradios_api_does_too(models: Models) -> None:
    with gr.Blocks() as page:
        add_chat_endpoint(models.pool, ActiveStreams(), 4)
    (chat,) = (event.fn for event in page.fns.values() if event.api_name == "chat")
    asked: Any = request(Access(requests_per_minute=1))
    assert chat is not None and asyncio.run(last(chat(asked, "Why?"))) == "one two three"
    with pytest.raises(gr.Error, match="1 requests a minute"):
        asyncio.run(last(chat(asked, "Why?")))
    models.pool.close()
