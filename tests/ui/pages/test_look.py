"""Accessibility and appearance: contrast, keyboard, touch targets, text direction, language, storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from engine.config import SamplingParams
from tests.ui.conftest import FakeSite, becomes, open_settings, until, violations
from tests.ui.fake_backend import INFO, FakeBackend
from ui.pages.settings_panel import STORAGE_KEY

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]

ARABIC, HEBREW = "مرحبا، كيف الحال اليوم؟", "שלום, מה נשמע?"
ANSWER = f"""Some **bold**, a [link](https://x.example), `code`:

```python
@decorator  # a comment
def add(x: int = 1) -> str:
    return f"{{x}}" + None
```

| a | b |\n|---|---|\n| 1 | 2 |

> quoted

{ARABIC}

$$x^2$$ done"""
# The gaps between a text and its box, left and right, in pixels.
SIDES = """(element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  const text = range.getBoundingClientRect(), box = element.getBoundingClientRect();
  return [text.left - box.left, box.right - text.right];
}"""
SMALL = """() => [...document.querySelectorAll('button, [role=button]')]
  .filter((e) => e.checkVisibility({ visibilityProperty: true }))
  .map((e) => [e.getAttribute('aria-label') || e.innerText, e.getBoundingClientRect()])
  .filter(([, box]) => box.left < innerWidth && box.width && (box.width < 40 || box.height < 40))
  .map(([name, box]) => `${name} ${box.width}x${box.height}`)"""
TOO_WIDE = "document.scrollingElement.scrollWidth > innerWidth"
DIRECTION = "(e) => [getComputedStyle(e).unicodeBidi, getComputedStyle(e).textAlign]"
MOVES = "(e) => parseFloat(getComputedStyle(e).transitionDuration) > 0.01"  # seconds
FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e);
  if (e === document.body) return ['', true];  // once round
  const frame = getComputedStyle(e.closest('.input-container, #question') || e);
  return [(e.getAttribute('aria-label') || e.innerText || e.id || e.tagName).trim(),
    style.outlineStyle !== 'none' || frame.outlineStyle !== 'none'];
}"""


def ask(page: Page, text: str) -> None:
    page.locator("#question textarea").fill(text)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("dark", [False, True])
def test_everyone_can_read_the_page(open_page: Open, fake_site: Start, dark: bool) -> None:
    page = open_page(fake_site(FakeBackend(ANSWER)).url, dark=dark)
    becomes(lambda: violations(page), [])  # empty, after accessibility_fixes.js has run
    open_settings(page)
    page.locator("#more-settings button").click()
    ask(page, HEBREW)
    expect(page.locator(".stats").last).to_contain_text("first word")
    expect(page.locator("#conversation .katex").first).to_be_visible()
    page.wait_for_timeout(300)  # colours fade in
    becomes(lambda: violations(page), [])  # with an answer and all settings open

    left, right = page.locator("#conversation .message.bot p", has_text="مرحبا").evaluate(SIDES)
    assert left > 100 and abs(right) < 5, "Arabic begins at the right"
    left, right = page.locator("#conversation .message.bot p", has_text="Some").evaluate(SIDES)
    assert right > 100 and abs(left) < 5, "English begins at the left"
    for box in ("#question textarea", "#conversation .message.user p"):
        becomes(lambda box=box: page.locator(box).evaluate(DIRECTION), ["plaintext", "start"])


def test_keyboard_fingers_and_calm(open_page: Open, fake_site: Start) -> None:
    page = open_page(fake_site(FakeBackend(ANSWER)).url)
    ask(page, "hello")
    expect(page.locator(".stats").last).to_contain_text("first word")
    open_settings(page)
    page.locator("#head h1").click()
    reached = {}
    for _ in range(60):
        page.keyboard.press("Tab")
        name, seen = page.evaluate(FOCUSED)
        reached[name] = seen
    assert {"New chat", "Settings", "Copy", "Edit", "Retry", "Back to the defaults"} <= set(reached)
    assert [name for name, seen in reached.items() if not seen] == []

    assert page.locator("#settings").evaluate(MOVES)
    page.emulate_media(reduced_motion="reduce")
    becomes(lambda: page.locator("#settings").evaluate(MOVES), wanted=False)
    page.locator("#history .toggle-button").click()  # a phone never has both panels open
    page.set_viewport_size({"width": 390, "height": 844})
    becomes(lambda: page.evaluate(SMALL), [])
    page.locator("#settings .toggle-button").click()
    expect(page.locator("#settings.open")).to_have_count(0)
    becomes(lambda: page.evaluate(SMALL), [])
    becomes(lambda: page.evaluate(TOO_WIDE), wanted=False)


def until_stored(page: Page, change: Callable[[], None]) -> None:
    """Change a setting and wait until the browser has stored it: a new salt changes the stored text."""
    stored = f"localStorage.getItem('{STORAGE_KEY}')"
    before = page.evaluate(stored)
    change()
    page.wait_for_function(f"before => {stored} !== before", arg=before)


def paste(page: Page, name: str, text: str) -> None:
    """Put a text into its box without typing, and leave the box."""
    box = page.locator(f"#set-{name} textarea")
    box.fill(text)
    box.blur()


def test_settings_in_german_survive_a_reload(open_page: Open, fake_site: Start) -> None:
    site = fake_site(FakeBackend(info=replace(INFO, recommended={"temperature": 0.6})))
    page = open_page(site.url, locale="de-DE")
    becomes(lambda: page.evaluate("document.documentElement.lang"), "de")
    expect(page.locator("#facts")).to_contain_text("2.048 Token Kontext")
    expect(page.locator("#new-chat")).to_have_text("Neuer Chat")
    open_settings(page)
    temperature = page.locator("#set-temperature input[type=number]")
    expect(temperature).to_have_value("0.6")  # recommended by the model
    expect(page.locator("#set-preset input:checked")).to_have_value("own")
    until_stored(page, page.locator("#set-preset").get_by_text("Genau").click)
    expect(temperature).to_have_value("0.2")
    until_stored(page, lambda: paste(page, "system-prompt", "Antworte kurz."))
    page.locator("#more-settings button").click()
    until_stored(page, lambda: paste(page, "stop", "ENDE\n\\n"))
    until_stored(page, lambda: page.locator("#set-top_k input[type=number]").fill("33"))
    expect(page.locator("#set-preset input:checked")).to_have_count(0)  # matches no preset
    until_stored(page, page.get_by_text("Anhalten und es sagen").click)

    page.reload()
    expect(temperature).to_have_value("0.2")
    expect(page.locator("#set-preset input:checked")).to_have_count(0)
    ask(page, "Hallo")
    until(lambda: site.backend.asked)
    messages, sampling = site.backend.asked[0]
    assert messages[0]["content"] == "Antworte kurz."
    expected = SamplingParams(0.2, repeat_penalty=1.05, top_p=0.9, top_k=33, min_p=0.1)
    assert sampling == replace(expected, stop=("ENDE", "\n"), overflow="refuse")

    open_settings(page)
    page.locator("#reset-settings").click()
    expect(temperature).to_have_value("0.6")
    page.evaluate("localStorage.setItem('gguf-chat.settings', 'nonsense')")
    page.reload()
    expect(temperature).to_have_value("0.6")
    expect(page.locator("#set-system-prompt textarea")).to_have_value("")
