"""The rail of chats in a real browser, over a fake model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.ui.conftest import becomes, serving, violations
from tests.ui.fake_backend import FakeBackend
from ui.conversations.store import Store
from ui.generation.running import RunningAnswers
from ui.models.registry import one_model
from ui.server.app import create_app

Open = Callable[..., Page]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> **bold**"
FOCUSED = "document.activeElement.closest('[data-stop]')?.textContent ?? document.activeElement.id"
DAY = 86_400.0


@pytest.fixture
def store() -> Iterator[Store]:
    opened = Store()
    for age, question in ((40, "Why is the sky blue?"), (1, HOSTILE), (0, "Name three ships.")):
        key = opened.create("local")
        asked = opened.add("local", key, None, "user", question)
        opened.add("local", key, asked, "assistant", f"You said: {question}")
        with opened._locked() as connection:
            older = "UPDATE conversation SET updated = updated - ? WHERE id = ?"
            connection.execute(older, [age * DAY, key])
    yield opened
    opened.close()


@pytest.fixture
def answering() -> set[str]:
    """The ids of the chats in which an answer is under way."""
    return set()


@pytest.fixture
def address(store: Store, answering: set[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(RunningAnswers, "look", lambda self, owner: frozenset(answering))
    models = one_model(FakeBackend("one two"))
    models.pool.load()
    with serving(create_app(models, 8, local=True, store=store)) as url:
        yield url


def chats(page: Page) -> Locator:
    return page.locator(".chats-title")


def saved(page: Page, role: str, name: str) -> tuple[str, str]:
    with page.expect_download() as download:
        page.get_by_role(role, name=name, exact=True).click()  # type: ignore[arg-type]
    return download.value.suggested_filename, Path(download.value.path()).read_text(encoding="utf-8")


def test_a_day_with_the_mouse(
    open_page: Open, address: str, store: Store, answering: set[str], tmp_path: Path
) -> None:
    answering.add(store.list("local")[0].id)
    page = open_page(address)
    conversation, box = page.locator("#conversation"), page.locator("#question textarea")
    expect(chats(page)).to_have_text(["Name three ships.", HOSTILE, "Why is the sky blue?"])
    expect(page.locator(".chats-name")).to_have_count(3)
    expect(page.locator(".chats-name").first).to_have_text("Today")

    expect(page.locator(".chats-row").first.locator(".chats-live")).to_be_visible()
    answering.clear()

    for row in (0, 1, 2):  # the last one counts
        chats(page).nth(row).click()
    expect(page.locator(".chats-current")).to_have_text("Why is the sky blue?")
    expect(conversation).to_contain_text("You said: Why is the sky blue?")
    expect(page.locator(".chats-live")).to_have_count(0)
    page.reload()
    expect(page.locator(".chats-current")).to_have_text("Why is the sky blue?")
    page.locator(".chats-current .chats-options").click()
    page.get_by_role("menuitem", name="Pin", exact=True).click()
    expect(chats(page).first).to_have_text("Why is the sky blue?")
    expect(page.locator(".chats-name").first).to_have_text("Pinned")
    name, text = menu_export(page)
    assert name == "Why-is-the-sky-blue.md" and "## You\n\nWhy is the sky blue?" in text

    page.locator("#chats-search").fill("said THREE")
    expect(chats(page)).to_have_text(["Name three ships."])
    expect(page.locator(".chats-row mark")).to_have_text(["three", "said", "three"])
    expect(page.locator(".chats-excerpt")).to_have_text("You said: Name three ships.")
    assert violations(page) == []
    page.locator("#chats-search").fill("nowhere")
    expect(page.locator(".chats-rows")).to_have_text("No chat has these words.")
    page.locator("#chats-search").press("Escape")
    expect(chats(page)).to_have_count(3)

    page.locator("#history-new").click()
    expect(conversation).to_contain_text("What can I do for you?")
    box.fill("Hello?")
    box.press("Enter")
    expect(page.locator(".chats-current")).to_have_text("Hello?")
    page.locator(".chats-current").hover()
    page.locator(".chats-current .chats-options").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(chats(page)).to_have_count(3)
    expect(conversation).not_to_contain_text("Hello?")
    page.locator(".chats-undo").click()
    expect(page.locator(".chats-current")).to_have_text("Hello?")
    expect(conversation).to_contain_text("Hello?")
    assert len(store.list("local")) == 4 and page.title() != "owned"
    store.trash("local", [store.list("local")[-1].id])  # by another tab
    chats(page).nth(3).click()
    expect(page.locator(".chats-said")).to_have_text("This chat is not there any more.")
    expect(chats(page)).to_have_count(3)
    import_and_delete_all(page, tmp_path / "chats.json", store)


def menu_export(page: Page) -> tuple[str, str]:
    page.locator(".chats-current .chats-options").click()
    return saved(page, "menuitem", "Export as Markdown")


def import_and_delete_all(page: Page, file: Path, store: Store) -> None:
    page.get_by_role("button", name="Export and import").click()
    name, text = saved(page, "button", "All chats as JSON")
    assert name == "chats.json" and len(json.loads(text)["conversations"]) == 3
    for content, note in ((text, "3 imported."), ("{}", "Nothing was imported: format: Field required")):
        file.write_text(content, encoding="utf-8")
        with page.expect_file_chooser() as chooser:
            page.locator("#history-import").click()
        chooser.value.set_files(file)
        expect(page.locator("#history-note")).to_contain_text(note)
        expect(chats(page)).to_have_count(6)
    page.locator("#history-delete-all").click()
    page.locator("#history-no").click()
    expect(page.locator("#history-sure")).to_be_hidden()
    page.locator("#history-delete-all").click()
    page.locator("#history-yes").click()
    expect(page.locator(".chats-rows")).to_have_text("Your chats will be listed here.")
    expect(page.locator("#conversation")).not_to_contain_text("Hello?")
    assert store.list("local") == ()


def test_a_day_with_the_keyboard(open_page: Open, address: str, store: Store) -> None:
    page = open_page(address)
    press = page.keyboard.press
    expect(page.locator(".chats-rows [tabindex='0']")).to_have_count(1)
    page.locator("#chats-search").focus()
    for key, focused in (
        ("ArrowDown", "Name three ships."),
        ("End", "Why is the sky blue?"),
        ("Home", "Name three ships."),
        ("ArrowDown", HOSTILE),
    ):
        press(key)
        assert page.evaluate(FOCUSED) == focused
    press("F2")
    page.keyboard.type("Not this")
    press("Escape")
    press("F2")
    page.keyboard.type("Second")
    press("Enter")
    becomes(lambda: [found.title for found in store.list("local")][1], "Second")
    assert page.evaluate(FOCUSED) == "Second"
    press("ArrowRight")
    expect(page.locator("#chat-menu")).to_be_visible()
    assert violations(page) == []
    press("Escape")
    press("Delete")
    expect(chats(page)).to_have_text(["Name three ships.", "Why is the sky blue?"])
    assert page.evaluate(FOCUSED) == "Why is the sky blue?"
    press("Control+z")
    expect(chats(page)).to_have_count(3)
    assert page.evaluate(FOCUSED) == "Second"
    press("Enter")
    expect(page.locator("#conversation")).to_contain_text("You said: ")
    folders_and_several(page)
    palette(page)


def folders_and_several(page: Page) -> None:
    press = page.keyboard.press
    page.locator(".chats-current .chats-item").focus()
    press("Shift+F10")
    for _ in range(5):
        press("ArrowDown")
    press("Enter")  # select several
    press("End")
    press("Space")
    expect(page.locator(".chats-bar")).to_contain_text("2 selected")
    assert violations(page) == []
    page.get_by_role("button", name="Move", exact=True).click()
    page.keyboard.type("Sea & <b>")
    press("Enter")
    folder = page.locator(".chats-folder")
    expect(folder).to_have_text("Sea & <b>2")
    expect(page.locator(".chats-inside .chats-title")).to_have_count(2)
    folder.press("ArrowLeft")
    expect(chats(page)).to_have_text(["Name three ships."])
    assert violations(page) == []


def palette(page: Page) -> None:
    press = page.keyboard.press
    press("Control+k")
    options = page.locator("#palette li")
    expect(options.first).to_have_text("New chat")
    expect(options.filter(has_text="Name three ships.")).to_have_count(1)
    assert violations(page) == []
    page.keyboard.type("sky")
    expect(options).to_have_text(["Why is the sky blue?…Why is the sky blue?"])
    press("Enter")
    expect(page.locator("#conversation")).to_contain_text("You said: Why is the sky blue?")
    press("Control+k")
    page.keyboard.type("light")
    expect(options).to_have_text(["Light or dark"])
    press("Enter")
    expect(page.locator("html.dark")).to_have_count(1)
    press("Control+k")
    page.keyboard.type("compare")
    press("Control+k")
    expect(page.locator("#palette")).to_be_hidden()


def test_on_a_phone_it_covers_each_page_and_closes_on_a_choice(
    open_page: Open, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.pages.history.chat_list.LISTED", 2)
    page = open_page(address, width=390, height=844)
    page.locator("#open-history").click()
    expect(page.locator("#chats-search")).to_be_in_viewport()
    expect(chats(page)).to_have_count(3)  # two, and the end of the list is in sight
    page.locator(".chats-options").last.click()
    page.get_by_role("menuitem", name="Pin", exact=True).click()
    expect(chats(page).first).to_have_text("Why is the sky blue?")
    assert violations(page) == []
    chats(page).nth(1).click()
    expect(page.locator("#chats-search")).not_to_be_in_viewport()
    expect(page.locator("#conversation")).to_contain_text("You said: Name three ships.")
    page.goto(f"{address}/compare")
    page.locator("#open-history").click()
    chats(page).first.click()
    expect(page.locator("#conversation")).to_contain_text("You said: Why is the sky blue?")
