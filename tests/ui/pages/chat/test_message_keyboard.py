"""Messages by keyboard: navigation, tools, menu and deletion, with the labels that a screen reader speaks."""

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
    box, answers = page.locator("#question textarea"), page.locator("#conversation .message.bot .tools")
    for number, question in enumerate(("hello", "again"), 1):
        page.keyboard.insert_text(question)  # the text box has the focus on load, and keeps it
        page.keyboard.press("Enter")
        expect(answers).to_have_count(number)

    for key, name in (
        ("ArrowUp", "Answer 2: first"),
        ("ArrowUp", "Message 2: again"),
        ("Home", "Message 1: hello"),
        ("ArrowUp", "Message 1: hello"),
        ("End", "Answer 2: first"),
        ("ArrowUp", "Message 2: again"),
    ):
        page.keyboard.press(key)
        becomes(lambda: (page.evaluate(FOCUSED), page.evaluate(RING)), (name, "solid"))
    page.keyboard.press("Enter")
    becomes(lambda: page.evaluate(FOCUSED), "Copy")
    page.keyboard.press("Tab")
    becomes(lambda: page.evaluate(FOCUSED), "Edit")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    becomes(lambda: page.evaluate(FOCUSED), "Take back into the box")
    page.keyboard.press("ArrowDown")
    becomes(lambda: page.evaluate(FOCUSED), "Delete from here")
    page.keyboard.press("Escape")
    becomes(lambda: page.evaluate(FOCUSED), "More")

    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    becomes(lambda: page.evaluate(FOCUSED), "Message 2: again")
    page.keyboard.press("Delete")
    expect(page.locator("#conversation .message")).to_have_count(2)
    page.wait_for_function(f"({FOCUSED})() === 'Answer 1: first'")
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#conversation .message")).to_have_count(4)
    expect(page.locator("#toast")).to_be_hidden()
    box.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    expect(box).to_be_focused()
