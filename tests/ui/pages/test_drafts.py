"""Unsent questions in a real browser: each chat has its own, and a reload keeps them."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from engine.errors import QueueFull
from tests.ui.conftest import FakeSite, becomes
from tests.ui.fake_backend import FakeBackend

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]
KEPT = "Object.values(JSON.parse(localStorage.getItem('gguf-chat.drafts') ?? '{}'))"


def box(page: Page) -> Locator:
    return page.locator("#question textarea")


def chats(page: Page) -> Locator:
    return page.locator(".chats-item")


def ask(page: Page, text: str) -> None:
    box(page).fill(text)
    box(page).press("Enter")
    expect(page.locator(".stats").last).to_contain_text("tokens/s ·")


def test_each_chat_keeps_its_unsent_question(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("one two"))
    page = open_page(site.url)
    box(page).fill("unsent in a new chat")
    becomes(lambda: page.evaluate(KEPT), wanted=["unsent in a new chat"])
    page.reload()
    expect(box(page)).to_have_value("unsent in a new chat")
    ask(page, "First?")
    becomes(lambda: page.evaluate(KEPT), wanted=[])  # what was sent is no draft
    box(page).fill("on the first")
    page.locator("#history-new").click()
    expect(box(page)).to_have_value("")
    ask(page, "Second?")
    expect(chats(page)).to_have_count(2)
    box(page).fill("on the\nsecond")
    chats(page).filter(has_text="First?").click()
    expect(box(page)).to_have_value("on the first")
    page.reload()
    expect(box(page)).to_have_value("on the first")
    chats(page).filter(has_text="Second?").click()
    expect(box(page)).to_have_value("on the\nsecond")
    chats(page).filter(has_text="Second?").press("Delete")
    expect(chats(page)).to_have_count(1)
    expect(box(page)).to_have_value("")
    becomes(lambda: page.evaluate(KEPT), wanted=["on the first"])  # that of the deleted chat is gone
    page.locator(".chats-undo").click()
    expect(box(page)).to_have_value("on the\nsecond")


def test_what_is_refused_or_damaged_costs_no_draft(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("one two"))
    page = open_page(site.url)
    site.backend.refuse = QueueFull("full")
    box(page).fill("Refused?")
    box(page).press("Enter")
    expect(page.locator("#status")).to_contain_text("Too many people")
    becomes(lambda: page.evaluate(KEPT), wanted=["Refused?"])
    page.reload()
    expect(box(page)).to_have_value("Refused?")
    for damaged in ("[", '{"": 5}'):
        page.evaluate("text => localStorage.setItem('gguf-chat.drafts', text)", damaged)
        page.reload()
        expect(box(page)).to_have_value("")
        box(page).fill("typed")
        becomes(lambda: "typed" in page.evaluate(KEPT), wanted=True)
