"""Answers that go on while their page is reloaded, shows another chat, or is closed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import FakeSite, serving, until
from tests.ui.fake_backend import FakeBackend
from tests.ui.pages.test_page import Open, Start, ask
from ui.models.registry import one_model
from ui.server.app import create_app

WORDS = 2000


def growing() -> FakeBackend:
    return FakeBackend(" ".join(f"w{number}" for number in range(WORDS)), 0.03)


def let_end(site: FakeSite) -> None:
    site.backend.streams[0]._pause = 0.0


def grows(page: Page) -> Callable[[], bool]:
    """Return whether the answer is longer than it was at the call."""
    shown = page.locator("#conversation .message.bot")
    expect(shown).to_contain_text("w3")
    before = len(shown.inner_text())
    return lambda: len(shown.inner_text()) > before


def test_a_reload_and_another_chat_leave_an_answer_under_way(open_page: Open, fake_site: Start) -> None:
    site = fake_site(growing())
    page = open_page(site.url)
    ask(page, "hello")
    until(grows(page))
    page.reload()
    until(grows(page))
    expect(page.locator("#question .stop-button")).to_be_visible()
    page.locator("#history-new").click()
    expect(page.locator("#conversation .message")).to_have_count(0)
    expect(page.locator("#question .submit-button")).to_be_visible()
    expect(page.locator(".chats-live")).to_be_visible()
    page.locator(".chats-title").click()
    until(grows(page))
    assert len(site.backend.streams) == 1 and not site.backend.streams[0].cancelled
    let_end(site)
    expect(page.locator("#conversation .message.bot")).to_contain_text(f"w{WORDS - 1}")
    expect(page.locator(".stats").last).to_contain_text(f"{WORDS:,} tokens")
    expect(page.locator("#question .submit-button")).to_be_visible()


def test_a_page_looks_for_answers_in_other_chats_until_they_have_ended(
    open_page: Open, fake_site: Start
) -> None:
    site = fake_site(growing())
    page = open_page(site.url)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    ask(page, "hello")
    until(grows(page))
    page.locator("#history-new").click()
    expect(page.locator(".chats-live")).to_be_visible()
    page.wait_for_timeout(500)
    requests.clear()
    page.wait_for_timeout(3500)
    assert 1 <= len(requests) <= 2
    let_end(site)
    expect(page.locator(".chats-live")).to_have_count(0)
    requests.clear()
    page.wait_for_timeout(3500)
    assert requests == []


@pytest.mark.parametrize("pause", [0.02, 60])
def test_a_server_may_end_an_answer_that_nobody_reads(open_page: Open, pause: float) -> None:
    backend = growing()
    backend.pause = pause
    models = one_model(backend)
    models.pool.load()
    with serving(create_app(models, 8, detached_seconds=0.0)) as url:
        page = open_page(url)
        ask(page, "hello")
        if pause < 1:
            until(grows(page))
        until(lambda: backend.streams)
        page.wait_for_timeout(1500)
        assert not backend.streams[0].cancelled
        page.close()
        until(lambda: backend.streams[0].cancelled, 5)
