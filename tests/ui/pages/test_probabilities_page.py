"""The probabilities of an answer's tokens in a real browser, by the keyboard."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.ui.conftest import FakeSite, violations
from tests.ui.fake_backend import FakeBackend

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]


def test_another_token_is_chosen_and_gone_on_from(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("one *two* three"))
    page = open_page(site.url)
    page.locator("#question textarea").fill("Why?")
    page.keyboard.press("Enter")
    answer = page.locator(".message.bot")
    expect(answer.locator(".stats")).to_be_visible()
    answer.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Word probabilities").click()
    tokens = answer.locator(".tokens > .token")
    expect(tokens).to_have_text(["one", " *two*", " three"], use_inner_text=False)
    expect(answer.locator(".markdown")).to_be_hidden()
    assert tokens.first.get_attribute("title") == "61%"
    assert violations(page) == []
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(tokens.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    site.backend.answer = " more"
    page.keyboard.press("Enter")
    expect(answer.locator(".markdown")).to_have_text("one other more")
    expect(answer.locator(".versions span")).to_have_text("2/2")
    answer.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Word probabilities").click()
    answer.get_by_role("button", name="Hide probabilities").click()
    expect(answer.locator(".markdown")).to_be_visible()
    expect(answer.locator(".probabilities")).to_have_count(0)
