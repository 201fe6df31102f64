"""Messages by keyboard: navigation, marking and deletion, with the labels that a screen reader speaks."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.ui.conftest import FakeSite, becomes
from tests.ui.fake_backend import FakeBackend

FOCUSED = "() => document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
RING = "() => getComputedStyle(document.activeElement).outlineStyle"


def test_messages_by_keyboard(
    open_page: Callable[..., Page], fake_site: Callable[[FakeBackend], FakeSite]
) -> None:
    page = open_page(fake_site(FakeBackend("first")).url)
    box, marked = page.locator("#question textarea"), page.locator("#conversation [aria-current=true]")
    for number, question in enumerate(("hello", "again"), 1):
        page.keyboard.insert_text(question)  # the text box has the focus on load, and keeps it
        page.keyboard.press("Enter")
        expect(page.locator("#conversation .message.bot")).to_have_count(number)
        expect(page.locator("#question .submit-button")).to_be_visible()

    for key, name in (
        ("ArrowUp", "Answer 2: first"),
        ("ArrowUp", "Message 2: again"),
        ("Home", "Message 1: hello"),
        ("ArrowUp", "Message 1: hello"),
        ("End", "Answer 2: first"),
        ("ArrowUp", "Message 2: again"),
    ):
        page.keyboard.press(key)
        becomes(lambda: (page.evaluate(FOCUSED), page.evaluate(RING)), (name, "dashed"))
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    becomes(lambda: page.evaluate(FOCUSED), "Message 2: again")  # the same message that had the focus before

    page.keyboard.press("Enter")
    expect(marked).to_have_text("again")
    expect(page.locator("#bar-label[aria-live=polite]")).to_have_text("Message 2 marked")
    page.keyboard.press("Escape")
    expect(marked).to_have_count(0)
    page.keyboard.press("Enter")
    expect(marked).to_be_focused()
    expect(page.locator("#bar-delete")).to_be_visible()
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Delete 2 messages")).to_be_focused()
    page.keyboard.press("Escape")
    expect(marked).to_be_focused()
    expect(page.locator("#bar-delete")).to_be_visible()
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Delete 2 messages")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#conversation .message-row")).to_have_count(2)
    page.wait_for_function(f"({FOCUSED})() === 'Answer 1: first'")
    page.keyboard.press("ArrowDown")
    expect(box).to_be_focused()
