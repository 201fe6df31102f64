"""The page with a fake backend: tests that need a given answer or error, or access to internals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, Page, expect

from engine.config import SamplingParams
from engine.errors import EngineStopped, QueueFull
from tests.ui.conftest import FakeSite, Spy, becomes, open_settings, until
from tests.ui.fake_backend import FakeBackend

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]


def ask(page: Page, text: str) -> None:
    page.locator("#question textarea").fill(text)
    page.keyboard.press("Enter")


def answers(page: Page) -> list[str]:
    return page.locator("#conversation .message.bot").all_inner_texts()


def test_the_browser_itself_refuses_foreign_images(browser: Browser, fake_site: Start, spy: Spy) -> None:
    page = browser.new_page()
    page.goto(fake_site(FakeBackend()).url)
    page.evaluate(
        "(url) => { const i = new Image(); i.src = url; document.body.append(i) }", f"{spy.url}/x.png"
    )
    page.wait_for_timeout(500)
    page.close()
    assert spy.visits == []


def test_the_model_reads_its_own_words_not_the_defused_ones(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("say <b> and ![x](y)\n    indented"))
    page = open_page(site.url)
    ask(page, "one <i>")
    expect(page.locator(".stats").last).to_contain_text("first word")
    ask(page, "two")
    until(lambda: len(site.backend.asked) == 2)
    assert [m["content"] for m in site.backend.asked[1][0]] == [
        "one <i>",
        "say <b> and ![x](y)\n    indented",
        "two",
    ]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".message.bot .tools .copy").first.click()
    becomes(lambda: page.evaluate("navigator.clipboard.readText()"), "say <b> and ![x](y)\n    indented")


def test_a_full_queue_is_said_and_the_question_comes_back(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend())
    site.backend.refuse = QueueFull("queue=0 is full")
    page = open_page(site.url)
    ask(page, "my question")
    expect(page.locator("#status .error")).to_contain_text("Too many people")
    expect(page.locator("#question textarea")).to_have_value("my question")
    site.backend.refuse = None
    page.keyboard.press("Enter")
    expect(page.locator("#conversation .message.bot")).to_contain_text("one two three")
    assert [m["content"] for m in site.backend.asked[0][0]] == ["my question"]


def test_an_error_keeps_the_part_that_was_written(open_page: Open, fake_site: Start) -> None:
    page = open_page(fake_site(FakeBackend("half an answer", error=EngineStopped("the engine died"))).url)
    ask(page, "hello")
    expect(page.locator("#status .error")).to_contain_text("the engine died")
    expect(page.locator("#conversation .message.bot")).to_contain_text("half an answer")
    expect(page.locator("#question .submit-button")).to_be_visible()


def test_stop_frees_the_engine_and_keeps_the_answer(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("word " * 500, pause=0.02))
    page = open_page(site.url)
    ask(page, "hello")
    expect(page.locator("#conversation .message.bot")).to_contain_text("word")
    page.locator("#question .stop-button").click()
    until(lambda: site.backend.streams[0].cancelled, 1)
    expect(page.locator(".stats")).to_contain_text("Stopped")
    expect(page.locator("#conversation .message.bot")).to_contain_text("word")
    expect(page.locator("#question .submit-button")).to_be_visible()


def test_regenerate_and_undo(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("first"))
    page = open_page(site.url)
    ask(page, "hello")
    expect(page.locator("#conversation .message.bot .markdown")).to_have_text("first")
    expect(page.locator("#question .submit-button")).to_be_visible()
    site.backend.answer = "second"
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#conversation .message.bot .markdown")).to_have_text("second")
    assert site.backend.asked[0][0] == site.backend.asked[1][0]
    page.locator(".message.user").hover()
    page.locator(".message.user .more").click()
    page.get_by_role("menuitem", name="Take back into the box").click()
    expect(page.locator("#conversation .message")).to_have_count(0)
    expect(page.locator("#question textarea")).to_have_value("hello")


def test_thoughts_are_folded_while_they_are_written_and_after(open_page: Open, fake_site: Start) -> None:
    page = open_page(
        fake_site(FakeBackend("<think>deep " + "hm " * 30 + "</think>So $x^2$ costs $5.", 0.03)).url
    )
    ask(page, "hello")
    thoughts = page.locator("#conversation .thoughts")
    expect(thoughts).to_contain_text("Thinking")
    expect(page.locator("#status")).to_contain_text("Thinking")
    expect(thoughts.locator(".markdown")).to_be_hidden()
    expect(page.locator("#conversation .message.bot").last).to_contain_text("costs $5.")
    expect(page.locator("#conversation .message.bot .katex")).to_have_count(1)
    expect(thoughts).to_contain_text("Thoughts")
    expect(thoughts.locator(".markdown")).to_be_hidden()
    thoughts.locator("summary").click()
    expect(thoughts.locator(".markdown")).to_contain_text("deep")


def test_keys_stop_focus_and_start_anew(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend("word " * 500, pause=0.02))
    page = open_page(site.url)
    ask(page, "hello")
    expect(page.locator("#conversation .message.bot")).to_contain_text("word")
    page.keyboard.press("Escape")
    until(lambda: site.backend.streams[0].cancelled, 1)
    expect(page.locator("#question .submit-button")).to_be_visible()
    page.locator("#question textarea").blur()
    page.keyboard.press("/")
    expect(page.locator("#question textarea")).to_be_focused()
    expect(page.locator("#question textarea")).to_have_value("")
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#conversation .example").first).to_be_visible()


def test_a_message_is_deleted_with_all_below_it_and_an_answer_is_rated(
    open_page: Open, fake_site: Start
) -> None:
    page = open_page(fake_site(FakeBackend("first")).url)
    for number, text in enumerate(("hello", "again"), 1):
        ask(page, text)
        expect(page.locator("#conversation .message.bot")).to_have_count(number)
        expect(page.locator("#question .submit-button")).to_be_visible()
    page.locator(".message.user").last.hover()
    page.locator(".message.user .more").last.click()
    page.get_by_role("menuitem", name="Delete from here").click()
    expect(page.locator("#conversation .message.bot")).to_have_count(1)
    page.get_by_role("button", name="Bad answer").click()
    page.locator(".note input").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator(".note")).to_have_count(0)
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")


def test_the_settings_reach_the_engine(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend())
    page = open_page(site.url)
    open_settings(page)
    page.locator("#set-system-prompt textarea").fill("Be brief.")
    page.locator("#set-temperature input[type=number]").fill("0.2")
    page.get_by_text("More", exact=True).click()
    page.locator("#set-seed input").fill("7")
    page.locator("#set-seed input").blur()
    ask(page, "hello")
    until(lambda: site.backend.asked)
    messages, sampling = site.backend.asked[0]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert sampling == SamplingParams(temperature=0.2, seed=7)
    page.get_by_text("Back to the defaults").click()
    expect(page.locator("#set-temperature input[type=number]")).to_have_value("0.7")
    expect(page.locator("#set-seed input")).to_have_value("")
    ask(page, "again")
    until(lambda: len(site.backend.asked) == 2)
    assert site.backend.asked[1][1] == SamplingParams()


def test_an_example_is_asked_with_one_click(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend())
    page = open_page(site.url)
    text = page.locator("#conversation .example").first.inner_text()
    page.locator("#conversation .example").first.click()
    expect(page.locator("#conversation .message.bot")).to_contain_text("one two three")
    assert site.backend.asked[0][0] == [{"role": "user", "content": text}]


def test_the_api_answers_with_history_and_settings(fake_site: Start) -> None:
    site = fake_site(FakeBackend("one two three four"))
    client = Client(site.url, verbose=False)
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "ho"}]},
    ]
    answer = client.predict("and?", history, max_tokens=3, system_prompt="Be brief.", api_name="/chat")
    assert answer == "one two three"
    messages, sampling = site.backend.asked[0]
    assert [m["content"] for m in messages] == ["Be brief.", "hi", "ho", "and?"]
    assert sampling == SamplingParams(max_tokens=3)
    assert client.predict("hello", api_name="/chat") == "one two three four"


def test_the_api_offers_chat_alone(fake_site: Start) -> None:
    client = Client(fake_site(FakeBackend()).url, verbose=False)
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/chat"]
    assert client.view_api(return_format="dict")["unnamed_endpoints"] == {}


def test_the_api_says_what_is_wrong_and_is_freed(fake_site: Start) -> None:
    site = fake_site(FakeBackend("word " * 5000, pause=0.02))
    client = Client(site.url, verbose=False)
    with pytest.raises(AppError, match=r"temperature=9\.0 is out of range"):
        client.predict("hello", temperature=9, api_name="/chat")
    job = client.submit("hello", max_tokens=5000, api_name="/chat")
    until(lambda: site.backend.streams and len(job.outputs()) > 2)
    job.cancel()
    until(lambda: site.backend.streams[0].cancelled, 3)
