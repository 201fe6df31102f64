"""The model picker with fake models: its texts while one loads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.requests import Request

from engine.errors import EngineError
from engine.serving.model_pool import ModelPool
from engine.types import ProgressCallback
from tests.ui.fake_backend import INFO, FakeBackend
from ui.models.catalog import Catalog
from ui.models.files import CatalogEntry
from ui.models.registry import Models
from ui.pages.chat import model_picker as models_panel
from ui.pages.chat.model_picker import ModelsPanel, Tab

REQUEST = gr.Request(Request({"type": "http", "headers": [], "state": {"visitor": "somebody"}}))


def panel_over(open_model: Callable[[str, ProgressCallback], FakeBackend]) -> ModelsPanel:
    """Return a picker for the models a and b."""
    catalog = Catalog(CatalogEntry(key, f"Model {key}", f"{key}.gguf") for key in "ab")
    with gr.Blocks():
        panel = ModelsPanel(Models(catalog, ModelPool(open_model, catalog.keys(), "a")), own_machine=False)
        panel.show_below(INFO)
    return panel


def test_a_switch_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_panel, "TICK", 0.01)
    reached, seen = threading.Event(), threading.Event()

    def open_model(_: str, progress: ProgressCallback) -> FakeBackend:
        assert progress(0.4)
        reached.set()
        assert seen.wait(10)
        return FakeBackend()

    panel = panel_over(open_model)

    async def notes() -> list[str]:
        notes: list[str] = []
        async for update in panel._switch(REQUEST, "b", "a"):
            notes.append(update[3])
            if reached.is_set() and "40 %" in notes[-1]:
                seen.set()
        return notes

    *loading, last = asyncio.run(notes())
    assert "Loading Model b · 40 % · 0 s" in loading[-1] and last == ""


def test_a_repository_s_files_are_offered_before_one_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [("m-Q4_K_M.gguf · 4 MB", "you/m/m-Q4_K_M.gguf"), ("m-Q8_0.gguf · 8 MB", "you/m/m-Q8_0.gguf")]
    monkeypatch.setattr(models_panel, "hub_choices", lambda name: files if name == "you/m" else files[:1])
    monkeypatch.setattr(models_panel, "on_own_machine", lambda _: True)
    asked = []

    async def switch(self: ModelsPanel, _: gr.Request, wanted: object, now: str) -> Any:
        asked.append((wanted, now))
        yield models_panel.NO_UPDATE

    monkeypatch.setattr(ModelsPanel, "_switch", switch)
    panel = panel_over(lambda *_: FakeBackend())

    async def choose(wanted: str) -> list[Any]:
        return [update async for update in panel._choose(REQUEST, wanted, "a", Tab())]

    listing, offered = asyncio.run(choose("you/m"))
    assert "Listing the files of you/m" in listing[3]
    assert "you/m has 2 models: choose one" in offered[3]
    assert offered[0]["choices"] == [*files, ("Model a", "a"), ("Model b", "b")]
    assert (offered[0]["value"], asked) == ("a", [])
    for wanted in ("you/m:Q8_0", "you/m/m-Q8_0.gguf", "b", "you/single"):
        asyncio.run(choose(wanted))
    assert [name for name, _ in asked] == ["you/m:Q8_0", "you/m/m-Q8_0.gguf", "b", "you/single"]


def test_a_changed_file_is_told_below_the_head(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    backend = FakeBackend(info=replace(INFO, path=str(file)))
    panel = panel_over(lambda *_: backend)
    assert panel._warn(REQUEST, "a") == ""  # not loaded
    panel._models.pool.load("a")
    assert panel._warn(REQUEST, "a") == ""
    file.write_bytes(b"another")
    assert "a.gguf was changed on disk while it is in use" in panel._warn(REQUEST, "a")


def test_a_choice_by_hand_ends_the_load_of_the_last_visits_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_panel, "TICK", 0.01)
    given_up = threading.Event()

    def open_model(key: str, progress: ProgressCallback) -> FakeBackend:
        while key == "b" and progress(0.4):
            time.sleep(0.01)
        given_up.set()
        raise EngineError("nobody waits")

    panel, tab = panel_over(open_model), Tab()

    async def updates() -> list[Any]:
        shown = []
        async for update in panel._restore(REQUEST, "b", "a", tab):
            shown.append(update)
            tab.choices += 1
        return shown

    loading, last = asyncio.run(updates())
    assert "Loading Model b" in loading[3]
    assert last == models_panel.NO_UPDATE
    assert given_up.wait(10)


@pytest.mark.parametrize("second", ["no/such/file.gguf", "", "c", "/nowhere", "a::b", "a"])
def test_a_second_choice_counts_at_once(monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    monkeypatch.setattr(models_panel, "TICK", 0.01)
    monkeypatch.setattr(models_panel, "on_own_machine", lambda _: True)
    given_up = threading.Event()

    def open_model(key: str, progress: ProgressCallback) -> FakeBackend:
        while key == "b" and progress(0.4):
            time.sleep(0.01)
        if key == "b":
            given_up.set()
            raise EngineError("nobody waits")
        return FakeBackend()

    panel, tab = panel_over(open_model), Tab()

    async def choose(wanted: str) -> list[Any]:
        return [update async for update in panel._choose(REQUEST, wanted, "a", tab)]

    async def both() -> tuple[list[Any], list[Any]]:
        slow = asyncio.create_task(choose("b"))
        await asyncio.sleep(0.05)
        quick = await asyncio.wait_for(choose(second), 5)
        return await asyncio.wait_for(slow, 5), quick

    slow, quick = asyncio.run(both())
    assert "Loading Model b" in slow[-2][3] and slow[-1] == models_panel.NO_UPDATE
    if second == "a":
        assert (quick[-1][1], quick[-1][3]) == ("a", "")
    else:
        assert "error" in quick[-1][3] and "Model a" in quick[-1][3]
        assert quick[-1][0]["value"] == "a" and quick[-1][1] == gr.skip()
    assert given_up.wait(10)


def test_an_answer_ends_what_was_said_of_a_choice() -> None:
    panel = panel_over(lambda *_: FakeBackend())
    with gr.Blocks() as page:
        event = page.load(lambda: None)
        panel.tidy_after(event)
    (tidied,) = (one for one in page.fns.values() if one.name == "tidied")
    assert tidied.outputs == [panel._warning, panel._note]
    assert tidied.fn is not None and tidied.fn(REQUEST, "a") == ("", "")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("b", "b"),
        ("a", "a"),
        ("c", None),
        ("/etc/passwd", None),
        ("you/hub/x.gguf", None),
        ("", None),
        (7, None),
    ],
)
def test_an_address_chooses_of_what_is_offered_only(
    monkeypatch: pytest.MonkeyPatch, name: object, key: str | None
) -> None:
    monkeypatch.setattr(models_panel, "on_own_machine", lambda _: True)
    opened: list[str] = []

    def open_model(key: str, _: ProgressCallback) -> FakeBackend:
        opened.append(key)
        return FakeBackend()

    panel = panel_over(open_model)

    async def last() -> Any:
        return [update async for update in panel._restore(REQUEST, {"address": name}, "a", Tab())][-1]

    update = asyncio.run(last())
    if key is not None:
        assert (update[1], update[3], opened) == (key, "", [key])
    else:
        assert "is not offered here" in update[3] and update[1] == gr.skip() and not opened
