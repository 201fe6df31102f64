"""The page's address in a real browser: the open chat, a question, a model."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.ui.conftest import FakeSite
from tests.ui.fake_backend import FakeBackend

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]


def ask(page: Page, text: str) -> str:
    """Ask in a new chat, and return its address."""
    page.locator("#question textarea").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".stats").last).to_contain_text("tokens/s ·")
    expect(page).to_have_url(re.compile(r"\?chat=[\w-]+"))
    return page.url


def test_each_chat_has_an_address_and_a_question_may_stand_in_it(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("one two"))
    page = open_page(site.url)
    first = ask(page, "First?")
    page.locator("#history-new").click()
    expect(page).to_have_url(re.compile(r"^[^?]*$"))
    second = ask(page, "Second?")
    assert second != first
    page.goto(first)
    expect(page.locator("#conversation")).to_contain_text("First?")
    page.goto(f"{site.url}?chat=of-somebody-else&model=nowhere%2Fx.gguf&__theme=dark")
    expect(page.locator("#conversation")).not_to_contain_text("First?")
    expect(page.locator("#model-note")).to_contain_text("'nowhere/x.gguf' is not offered here")
    expect(page).to_have_url(re.compile(r"\?__theme=dark$"))
    page.goto(second)
    page.goto(f"{site.url}?q=Why%20is%20it%20so%3F&model=fake")
    expect(page.locator("#question textarea")).to_have_value("Why is it so?")
    expect(page.locator("#conversation")).not_to_contain_text("Second?")
    expect(page).to_have_url(re.compile(r"^[^?]*$"))
    assert len(site.backend.asked) == 2, "following a link asks nothing by itself"
    third = ask(page, "Why is it so?")
    assert third not in (first, second)
    expect(page.locator(".chats-item")).to_have_count(3)
