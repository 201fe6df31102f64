"""The arrows between versions in a real browser: they stay under a resting pointer."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import FakeSite
from tests.ui.fake_backend import FakeBackend

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]
WIDTHS = (1440, 1024, 390)
RETRY = {"en-US": "Retry", "zh-CN": "重试"}  # Gradio's own words
AT = "([x, y]) => document.elementFromPoint(x, y).closest('button')?.id"


@pytest.mark.parametrize("locale", RETRY)
def test_a_resting_pointer_clicks_the_same_arrow_again(
    open_page: Open, fake_site: Start, locale: str
) -> None:
    page = open_page(fake_site(FakeBackend("one two")).url, locale=locale)
    page.locator("#question textarea").fill("Why?")
    page.keyboard.press("Enter")
    for count in (1, 2, 3):
        expect(page.locator("#status")).to_contain_text(re.compile("token", re.IGNORECASE))
        expect(page.locator("#question .submit-button")).to_be_visible()
        if count < 3:
            page.get_by_role("button", name=RETRY[locale]).click()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.reload()  # panels are open on wide pages only
        expect(page.locator("#bar-earlier")).to_be_visible()
        while page.locator("#bar-later").is_enabled():
            page.locator("#bar-later").click()
            page.wait_for_timeout(300)
        box = page.locator("#bar-earlier").bounding_box()
        assert box is not None
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        for _ in range(3):
            assert page.evaluate(AT, middle) == "bar-earlier", width
            page.mouse.click(*middle)
            page.wait_for_timeout(300)
        assert page.locator("#bar-delete").is_visible() and page.locator("#bar-earlier").is_disabled()
        assert page.evaluate(AT, middle) == "bar-earlier", width
