"""The history in a real browser, beside a chat with an echo backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, expect

from tests.ui.conftest import serving
from ui.auth.access import Access
from ui.auth.identity import VisitorMiddleware
from ui.auth.middleware import AuthMiddleware
from ui.conversations.store import Store
from ui.i18n.words import gradio_i18n
from ui.pages.assets import CSS
from ui.pages.history.panel import HistoryPanel
from ui.server.app import ContentPolicyMiddleware

Open = Callable[..., Page]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> **bold**"


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store()
    for question in ("Why is the sky blue?", HOSTILE, "Name three ships."):
        ask(opened, opened.create("local"), question)
    yield opened
    opened.close()


def ask(store: Store, key: str, question: str) -> None:
    asked = store.add("local", key, store.load("local", key).tree.leaf, "user", question)
    store.add("local", key, asked, "assistant", f"You said: {question}")


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    def draw(current: str) -> str:
        return (
            "\n".join(node.text for node in store.load("local", current).tree.path())
            if current
            else "(empty)"
        )

    def send(question: str, current: str) -> tuple[str, str]:
        current = current or store.create("local")
        ask(store, current, question)
        return current, draw(current)

    with gr.Blocks() as page:
        history = HistoryPanel(store)
        history.opener()
        shown = gr.Textbox(elem_id="shown", lines=4)
        box = gr.Textbox(elem_id="question")
        sent = box.submit(send, [box, history.current], [history.current, shown])
        history.wire(page)
        history.refresh_after(sent)
        history.on_open(draw, [shown])
    app = FastAPI()
    app.add_middleware(ContentPolicyMiddleware)
    app.add_middleware(AuthMiddleware, access=Access(), sessions=lambda cookies: None)
    app.add_middleware(VisitorMiddleware, local=True)
    gr.mount_gradio_app(app, page, path="/", css_paths=CSS, ssr_mode=False, i18n=gradio_i18n())
    with serving(app) as url:
        yield url


def titles(page: Page) -> list[str]:
    return [title.strip() for title in page.locator("#history-list label").all_inner_texts()]


def saved(page: Page, button: str) -> tuple[str, str]:
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    return download.value.suggested_filename, Path(download.value.path()).read_text(encoding="utf-8")


def test_a_day_with_the_history(open_page: Open, address: str, store: Store, tmp_path: Path) -> None:
    page = open_page(address)
    shown = page.locator("#shown textarea")
    listed = page.locator("#history-list label")
    expect(listed).to_have_text(["Name three ships.", HOSTILE, "Why is the sky blue?"])
    expect(shown).to_have_value("(empty)")

    listed.nth(2).click()
    expect(shown).to_have_value("Why is the sky blue?\nYou said: Why is the sky blue?")
    page.reload()
    expect(page.locator("#history-list label.selected")).to_have_text("Why is the sky blue?")
    expect(shown).to_have_value("Why is the sky blue?\nYou said: Why is the sky blue?")

    page.locator("#history-pin").click()
    expect(listed.first).to_have_text("★ Why is the sky blue?")
    page.locator("#history-rename").click()
    page.locator("#history-title input").fill("Sky")
    page.keyboard.press("Enter")
    expect(listed.first).to_have_text("★ Sky")
    page.locator("#history-search input").fill("three SHIPS")
    expect(listed).to_have_text(["Name three ships."])
    page.locator("#history-search input").fill("")
    expect(listed).to_have_count(3)

    page.get_by_role("button", name="Export and import").click()
    name, text = saved(page, "This chat as Markdown")
    assert name == "Sky.md" and "## You\n\nWhy is the sky blue?" in text
    name, text = saved(page, "All chats as JSON")
    assert name == "chats.json" and len(json.loads(text)["conversations"]) == 3

    page.locator("#history-delete-all").click()
    page.locator("#history-no").click()
    expect(page.locator("#history-sure")).to_be_hidden()
    page.locator("#history-delete").click()
    page.locator("#history-yes").click()
    expect(listed).to_have_count(2)
    expect(shown).to_have_value("(empty)")

    page.locator("#question textarea").fill("Hello?")
    page.keyboard.press("Enter")
    expect(page.locator("#history-list label.selected")).to_have_text("Hello?")
    page.locator("#history-new").click()
    expect(shown).to_have_value("(empty)")

    file = tmp_path / "chats.json"
    file.write_text(text, encoding="utf-8")
    with page.expect_file_chooser() as chooser:
        page.locator("#history-import").click()
    chooser.value.set_files(file)
    expect(page.locator("#history-note")).to_have_text("3 imported.")
    expect(listed).to_have_count(6)
    file.write_text("{}", encoding="utf-8")
    with page.expect_file_chooser() as chooser:
        page.locator("#history-import").click()
    chooser.value.set_files(file)
    expect(page.locator("#history-note")).to_contain_text("Nothing was imported: format: Field required")
    assert len(store.list("local")) == 6 and page.title() != "owned"


def test_on_a_phone_it_covers_the_page_and_closes_on_a_choice(open_page: Open, address: str) -> None:
    page = open_page(address, width=390, height=844)
    expect(page.locator("#history")).not_to_have_class("open")
    page.locator("#open-history").click()
    expect(page.locator("#history-search")).to_be_in_viewport()
    page.locator("#history-list label").first.click()
    expect(page.locator("#history-search")).not_to_be_in_viewport()
    expect(page.locator("#shown textarea")).to_have_value("Name three ships.\nYou said: Name three ships.")
