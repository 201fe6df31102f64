"""A message's versions in a real browser: its arrows, which stay under a resting pointer, and edits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import FakeSite
from tests.ui.fake_backend import FakeBackend

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]
WIDTHS = (1440, 1024, 390)
RETRY = {"en-US": "Retry", "zh-CN": "重试"}
AT = "([x, y]) => document.elementFromPoint(x, y).closest('button')?.className"


def ask(page: Page, text: str) -> None:
    page.locator("#question textarea").fill(text)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("locale", RETRY)
def test_a_resting_pointer_clicks_the_same_arrow_again(
    open_page: Open, fake_site: Start, locale: str
) -> None:
    page = open_page(fake_site(FakeBackend("one two")).url, locale=locale)
    ask(page, "Why?")
    versions = page.locator(".message.bot .versions span")
    for count in (1, 2, 3):
        expect(page.locator(".message.bot .stats")).to_be_visible()
        if count > 1:
            expect(versions).to_have_text(f"{count}/{count}")
        if count < 3:
            page.get_by_role("button", name=RETRY[locale]).click()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.reload()
        expect(versions).to_have_text("3/3")
        page.wait_for_timeout(400)  # the rail slides in
        box = page.locator(".message.bot .earlier").bounding_box()
        assert box is not None
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        for shown in ("2/3", "1/3", "1/3"):
            assert page.evaluate(AT, middle) == "tool earlier", width
            page.mouse.click(*middle)
            expect(versions).to_have_text(shown)
        assert page.evaluate(AT, middle) == "tool earlier", width
        for shown in ("2/3", "3/3"):
            page.locator(".message.bot .later").click()
            expect(versions).to_have_text(shown)


def test_messages_are_edited_in_place(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("one two"))
    page = open_page(site.url)
    ask(page, "Why?")
    answer = page.locator(".message.bot")
    answer.get_by_role("button", name="Edit").click()
    answer.locator("textarea").fill("never")
    page.keyboard.press("Escape")
    expect(answer.locator(".markdown")).to_have_text("one two")
    answer.get_by_role("button", name="Edit").click()
    answer.locator("textarea").fill("Because **of**")
    page.keyboard.press("Control+Enter")
    expect(answer.locator(".markdown")).to_have_text("Because of")
    expect(answer.locator(".versions span")).to_have_text("2/2")
    expect(answer.locator(".stats")).to_have_text("Edited by hand")
    site.backend.answer = " it"
    answer.get_by_role("button", name="Continue").click()
    expect(answer.locator(".markdown")).to_have_text("Because of it")
    page.locator(".message.user").hover()
    page.locator(".message.user").get_by_role("button", name="Edit").click()
    page.locator(".message.user textarea").fill("Who?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.user .markdown")).to_have_text("Who?")
    expect(answer.locator(".stats")).to_contain_text("token")
    assert [m["content"] for m in site.backend.asked[-1][0]] == ["Who?"]
    assert [m["content"] for m in site.backend.asked[-2][0]] == ["Why?", "Because **of**"]
