"""A real browser with the real app and the embedded model."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from tests.ui.app_process import AppProcess
from tests.ui.conftest import becomes, open_settings, until

Open = Callable[..., Page]
SLOW = 60_000  # ms: a test machine may be busy
LONG_STORY = "Tell me a very long story about a ship, in many chapters."


def ask(page: Page, text: str) -> None:
    page.locator("#question textarea").fill(text)
    page.keyboard.press("Enter")


def answer(page: Page) -> str:
    return str(page.locator("#conversation .message.bot .markdown").last.inner_text())


def finish(page: Page) -> str:
    """Wait until the answer ends, and return its statistics."""
    expect(page.locator("#question .submit-button")).to_be_visible(timeout=SLOW)
    expect(page.locator(".stats").last).to_contain_text("tokens/s")
    return str(page.locator(".stats").last.inner_text())


def set_number(page: Page, name: str, value: str) -> None:
    field = page.locator(f"#set-{name} input[type=number]")
    if not field.is_visible():
        open_settings(page)
    field.fill(value)
    field.blur()


def test_the_page_says_which_model_answers_and_how_to_bring_another(open_page: Open, app: AppProcess) -> None:
    page = open_page(app.address())
    expect(page.locator("#head h1")).to_have_text("SmolLM2-135M-Instruct")
    expect(page.locator("#facts")).to_contain_text(
        re.compile(r"Q4_1 · 13\d M parameters · \d+ MB · 2,048 tokens")
    )
    expect(page.locator("#facts")).to_contain_text("python app.py")
    expect(page).to_have_title("GGUF Chat")


def test_an_answer_streams(open_page: Open, app: AppProcess) -> None:
    page = open_page(app.address())
    set_number(page, "max_tokens", "250")  # takes at least a second, also on a fast machine
    ask(page, LONG_STORY)
    expect(page.locator("#conversation .message.bot")).to_be_visible(timeout=SLOW)
    lengths: list[int] = []
    while page.locator("#question .stop-button").is_visible():
        lengths.append(len(answer(page)))
        page.wait_for_timeout(30)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 3, lengths
    assert "first word after" in finish(page)


def test_stop_and_ask_again(open_page: Open, app: AppProcess) -> None:
    page = open_page(app.address())
    set_number(page, "max_tokens", "1500")
    page.locator("#question textarea").fill(LONG_STORY)
    page.get_by_role("button", name="Send", exact=True).click()
    until(lambda: page.locator("#conversation .message.bot").count() and len(answer(page)) > 20, 60)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".stats")).to_contain_text("Stopped", timeout=5000)
    kept = answer(page)
    page.wait_for_timeout(500)
    assert answer(page) == kept
    set_number(page, "max_tokens", "16")
    ask(page, "What is the capital of France?")
    finish(page)
    expect(page.locator("#conversation .message.bot")).to_have_count(2)


def test_two_people_are_answered_at_the_same_time(open_page: Open, app: AppProcess) -> None:
    pages = [open_page(app.address()), open_page(app.address())]
    for page in pages:
        set_number(page, "max_tokens", "1500")
        ask(page, LONG_STORY)
    for page in pages:
        expect(page.locator("#conversation .message.bot")).to_be_visible(timeout=SLOW)
    before = [len(answer(page)) for page in pages]
    until(lambda: all(len(answer(page)) > then for page, then in zip(pages, before, strict=True)), 30)
    for page in pages:  # both grew, so neither waited for the other to end
        page.keyboard.press("Escape")  # stops it, unless it has ended
        finish(page)


def test_temperature_and_length_matter(open_page: Open, app: AppProcess) -> None:
    page = open_page(app.address())
    set_number(page, "max_tokens", "64")  # long enough to be seen in progress
    set_number(page, "temperature", "0")
    ask(page, LONG_STORY)
    assert "Cut at “Maximum new tokens”" in finish(page)
    assert "64 tokens" in page.locator(".stats").inner_text()
    first = answer(page)
    for temperature in ("0", "1.5"):
        set_number(page, "temperature", temperature)
        page.get_by_role("button", name="Retry").click()
        expect(page.locator("#question .stop-button")).to_be_visible()
        finish(page)
        assert (answer(page) == first) == (temperature == "0")


def test_a_cut_answer_goes_on_and_an_edit_is_a_branch(open_page: Open, app: AppProcess) -> None:
    page = open_page(app.address())
    set_number(page, "max_tokens", "32")
    set_number(page, "temperature", "0")
    ask(page, LONG_STORY)
    finish(page)
    cut = answer(page)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".stats")).to_contain_text("64 tokens ·", timeout=SLOW)  # not 64 tokens/s
    whole = answer(page)
    assert whole.startswith(cut[:-1]) and len(whole) > len(cut)
    question = page.locator("#conversation .message.user")
    question.hover()
    question.get_by_role("button", name="Edit").click()
    question.locator("textarea").fill("What is the capital of France?")
    page.keyboard.press("Enter")
    expect(question.locator(".versions")).to_contain_text("2/2")
    finish(page)
    assert answer(page) != whole
    question.get_by_role("button", name="Version before").click()
    expect(question.locator(".markdown")).to_have_text(LONG_STORY)
    assert answer(page) == whole


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_is_wide_enough(open_page: Open, app: AppProcess, dark: bool) -> None:
    page = open_page(app.address(), 390, 844, dark)
    expect(page.locator("#settings.open")).to_have_count(0)  # open, it would cover the page
    ask(page, f"{'unbreakable' * 20} `{'code' * 40}` what is this?")
    expect(page.locator("#conversation .message.bot .markdown")).to_be_visible(timeout=SLOW)
    page.keyboard.press("Escape")  # it may have ended already
    finish(page)
    becomes(lambda: page.evaluate("document.scrollingElement.scrollWidth > innerWidth"), wanted=False)
    for part in ("#head", "#facts", "#conversation .message.user", "#conversation .stats", "#question"):
        box = page.locator(part).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390, part
    becomes(lambda: page.locator("#question").bounding_box()["y"] < 844, wanted=True)  # type: ignore[index]
    page.locator("#open-settings").click()
    expect(page.locator("#settings.open")).to_be_visible()
    page.locator("#settings .toggle-button").click()
    expect(page.locator("#settings.open")).to_have_count(0)


def test_gradio_client_gets_an_answer(app: AppProcess) -> None:
    client = Client(app.address(), verbose=False)
    settings = {"temperature": 0, "max_tokens": 12, "api_name": "/chat"}
    first, second = (client.predict("What is the capital of France?", **settings) for _ in range(2))
    assert first
    assert first == second
    parts = list(client.submit(LONG_STORY, **{**settings, "max_tokens": 250}))
    assert len(set(parts)) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(parts))
