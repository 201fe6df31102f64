"""A real browser, with the page below a path of a proxy that strips it."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.ui.conftest import serving
from tests.ui.fake_backend import FakeBackend
from tests.ui.prefix_proxy import prefix_proxy
from ui.models.registry import one_model
from ui.server.app import create_app
from ui.server.root_path import HEADER, RootPathMiddleware


def test_the_chat_answers_and_its_links_stay_below_the_path(open_page: Callable[..., Page]) -> None:
    models = one_model(FakeBackend("Aye, below a path."))
    models.pool.load()
    app = RootPathMiddleware(create_app(models, 8), trusted_proxies=["127.0.0.1"])
    with serving(app) as server, prefix_proxy(server, "/chat", [f"{HEADER}: /chat"]) as proxy:
        page = open_page(proxy.url)  # without a slash, from which relative links would leave the path
        page.locator("#question textarea").fill("Where are you?")
        page.keyboard.press("Enter")
        expect(page.locator("#conversation .message.bot").last).to_contain_text("Aye, below a path.")
        page.locator("#open-compare").click()
        expect(page).to_have_url(f"{proxy.url}/compare")
        expect(page.locator("#open-settings")).to_be_visible()
        page.locator("#open-chat").click()
        expect(page).to_have_url(re.compile(re.escape(proxy.url) + r"/(\?.*)?$"))
        page.locator("#open-quality").click()
        expect(page).to_have_url(f"{proxy.url}/quality")
        expect(page.locator("#open-chat")).to_be_visible()
        assert set(proxy.outside) <= {"/favicon.ico"}  # which Chromium asks of every host
