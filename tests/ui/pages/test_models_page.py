"""Choosing and comparing models in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, Route, expect

from engine.serving.model_pool import ModelPool
from tests.ui.app_process import AppProcess, running
from tests.ui.conftest import FakeSite, becomes, open_settings
from tests.ui.fake_backend import INFO, FakeBackend
from ui.models.catalog import Catalog
from ui.models.files import CatalogEntry, embedded_gguf
from ui.models.registry import Models
from ui.pages.settings_panel import NAMES

Open = Callable[..., Page]
SLOW = 30_000  # ms: a test machine may be busy
HOSTILE = "no <img src=x onerror='window.hacked=1'> way"


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """Start the app with the embedded model, a copy of it and a broken file."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "second-Q4_1.gguf").symlink_to(embedded_gguf())
    (folder / "broken-Q4_0.gguf").write_bytes(b"GGUF and no more")
    with running("--port", "0", "--context", "1024", "--models", str(folder)) as process:
        process.address()
        yield process


def choose(page: Page, name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=name).click()


def ask(page: Page, text: str) -> None:
    page.locator("#question textarea").fill(text)
    page.keyboard.press("Enter")


def test_a_tab_changes_its_model_and_keeps_it_when_another_does_not_load(
    open_page: Open, two_models: AppProcess
) -> None:
    page = open_page(two_models.address())
    field = page.locator("#model input")
    expect(field).to_have_value("SmolLM2-135M-Instruct · Q4_1 · 98 MB", timeout=SLOW)
    other = open_page(two_models.address())
    choose(page, "second")
    expect(page.locator("#head h1")).to_have_text("second", timeout=SLOW)
    expect(page.locator("#facts")).not_to_contain_text("python app.py")
    choose(page, "broken")
    expect(page.locator("#model-note .error")).to_contain_text("second · Q4_1", timeout=SLOW)
    expect(field).to_have_value("second · Q4_1 · 98 MB")
    open_settings(page)
    page.locator("#set-max_tokens input[type=number]").fill("16")
    page.locator("#set-repeat_penalty input[type=number]").fill("1.3")
    ask(page, "What is the capital of France?")
    expect(page.locator(".stats")).to_contain_text("tokens/s ·", timeout=SLOW)
    expect(other.locator("#head h1")).to_have_text("SmolLM2-135M-Instruct")
    page.reload()
    expect(page.locator("#head h1")).to_have_text("second", timeout=SLOW)
    export_and_import(page)
    compare(page, two_models)


def export_and_import(page: Page) -> None:
    """Export the chat, check the generation details in the file, and import it again."""
    page.locator(".chats-options").click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Export as JSON").click()
    page.get_by_role("button", name="Export and import").click()
    file = saved.value.path()
    (chat,) = json.loads(file.read_text())["conversations"]
    made = chat["messages"][1]["made"]
    sampling = made["sampling"]
    assert (made["model"], sampling["max_tokens"], sampling["repeat_penalty"]) == ("second", 16, 1.3)
    assert 0 < made["generated_tokens"] <= 16
    with page.expect_file_chooser() as chooser:
        page.locator("#history-import").click()
    chooser.value.set_files(
        {"name": "chat.json", "mimeType": "application/json", "buffer": file.read_bytes()}
    )
    expect(page.locator(".chats-item")).to_have_count(2)


def compare(page: Page, served: AppProcess) -> None:
    """Compare two models that answer at the same time with one that does not load."""
    page.goto(f"{served.address()}/compare")
    page.locator("#compare-models input").click()
    page.get_by_role("option", name="second").click()
    page.keyboard.press("Escape")
    ask(page, "What is the capital of France?")
    lanes = page.locator(".lane")
    expect(lanes.filter(has_text="tokens/s")).to_have_count(2, timeout=SLOW)
    expect(lanes.filter(has_text="did not work")).to_have_count(1)


@pytest.fixture
def three(fake_site: Callable[[Models], FakeSite]) -> FakeSite:
    """Start a page with three fake models; one recommends sampling settings."""
    infos = {"tuned": replace(INFO, context=1024, recommended={"temperature": 0.6})}
    answers = {"base": "the sky is blue", "tuned": "the sea is blue", "odd": HOSTILE}
    catalog = Catalog(CatalogEntry(key, f"Model {key}", f"{key}.gguf") for key in answers)
    pool = ModelPool(
        lambda key, _: FakeBackend(answers[key], 0.01, info=infos.get(key, INFO)), catalog.keys(), "base"
    )
    return fake_site(Models(catalog, pool))


def test_models_are_compared_side_by_side_and_voted_on(
    open_page: Open, three: FakeSite, tmp_path: Path
) -> None:
    page = open_page(f"{three.url}/compare")
    page.locator("#compare-models input").click()
    page.get_by_role("option", name="Model odd").click()
    page.keyboard.press("Escape")
    ask(page, "Why?")
    expect(page.locator("#vote")).to_be_visible(timeout=SLOW)
    lanes = page.locator(".lane")
    expect(lanes).to_have_count(3)
    expect(lanes.nth(1)).to_contain_text("Model tuned")
    expect(lanes.nth(1)).to_contain_text("tokens/s")
    becomes(lambda: lanes.nth(1).locator("mark").all_text_contents(), ["sea"])
    assert lanes.nth(2).locator(".said").inner_text() == HOSTILE
    assert page.locator(".lane img").count() == 0 and page.evaluate("window.hacked") is None
    page.get_by_label("Model tuned is best").check()
    expect(page.locator("#tally tbody tr")).to_have_count(2)
    page.get_by_label("Blind").check()
    ask(page, "Why not?")
    expect(page.get_by_label("A is best")).to_be_visible(timeout=SLOW)
    assert "Model" not in lanes.all_inner_texts()[0] and "tokens/s" not in str(lanes.all_inner_texts())
    page.get_by_label("No difference").check()
    expect(lanes.nth(0)).to_contain_text("Model")
    expect(page.locator("#tally tbody tr")).to_have_count(3)
    with page.expect_download() as saved:
        page.locator("#tally-csv").click()
    assert saved.value.suggested_filename == "votes.csv"
    assert "Model base,Model tuned,0,1,1,1" in Path(saved.value.path()).read_text()
    page.reload()
    expect(page.locator("#tally tbody tr")).to_have_count(3)
    page.set_viewport_size({"width": 390, "height": 844})
    becomes(lambda: page.evaluate("document.scrollingElement.scrollWidth > 390"), wanted=False)

    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(three.url)
    temperature = page.locator("#set-temperature input[type=number]")
    expect(temperature).to_have_value("0.7")
    choose(page, "Model tuned")
    for _ in range(2):  # and again after a reload
        expect(temperature).to_have_value("0.6", timeout=SLOW)
        expect(page.locator("#set-preset input:checked")).to_have_value("own")
        expect(page.locator("#set-max_tokens input[type=number]")).to_have_attribute("max", "1024")
        page.reload()


def test_a_choice_by_hand_is_not_undone_by_the_model_of_the_last_visit(
    open_page: Open, three: FakeSite
) -> None:
    page = open_page(three.url)
    temperature = page.locator("#set-temperature input[type=number]")
    choose(page, "Model tuned")
    expect(temperature).to_have_value("0.6", timeout=SLOW)
    late: list[Route] = []

    def hold_the_last_visits(route: Route) -> None:
        late.append(route) if "tuned" in (route.request.post_data or "") else route.continue_()

    page.route("**/queue/join*", hold_the_last_visits)
    with page.expect_request("**/queue/join*"):
        page.reload()
    choose(page, "Model odd")
    expect(page.locator("#model-name")).to_have_text("fake")
    open_settings(page)
    temperature.fill("0.9")
    begun_by = late[0].request.post_data_json["trigger_id"]

    def is_its_end(response: Response) -> bool:
        sent = response.request.post_data_json or {}
        return sent.get("trigger_id") == begun_by and len(sent["data"]) == 2 + len(NAMES)

    with page.expect_response(is_its_end):
        late[0].continue_()
    expect(page.locator("#model input")).to_have_value("Model odd")
    expect(temperature).to_have_value("0.9")
    expect(page.locator("#set-max_tokens input[type=number]")).to_have_attribute("max", "2048")
