"""A user's own presets in a real browser: kept by name, applied, exported, imported, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.ui.conftest import FakeSite, open_settings, until
from tests.ui.fake_backend import FakeBackend

STORED = "JSON.parse(localStorage.getItem('gguf-chat.presets') ?? '[]').map((one) => one.name)"
HOSTILE = "<img src=x onerror='window.hacked=1'>"


def test_own_presets(
    open_page: Callable[..., Page], fake_site: Callable[[FakeBackend], FakeSite], tmp_path: Path
) -> None:
    site = fake_site(FakeBackend())
    page = open_page(site.url)
    open_settings(page)
    temperature = page.locator("#set-temperature input[type=number]")
    prompt = page.locator("#set-system-prompt textarea")
    temperature.fill("0.3")
    prompt.fill("Be a pirate.")
    prompt.blur()
    page.locator(".presets-name").fill("pirate")
    page.locator(".presets-save").click()
    expect(page.locator(".presets-said")).to_contain_text("pirate")
    page.locator("#reset-settings").click()
    expect(temperature).to_have_value("0.7")

    page.reload()
    open_settings(page)
    page.locator(".presets-list").select_option("pirate")
    expect(temperature).to_have_value("0.3")
    expect(prompt).to_have_value("Be a pirate.")
    page.locator("#question textarea").fill("Who?")
    page.keyboard.press("Enter")
    until(lambda: site.backend.asked)
    messages, sampling = site.backend.asked[0]
    assert messages[0]["content"] == "Be a pirate." and sampling.temperature == 0.3

    with page.expect_download() as download:
        page.locator(".presets-export").click()
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [one["name"] for one in exported["presets"]] == ["pirate"]
    page.locator(".presets-remove").click()
    assert page.evaluate(STORED) == []

    odd = {"name": HOSTILE, "values": {"temperature": 99, "system_prompt": 5, "unknown": 1}}
    exported["presets"] += [odd, {"name": "no values"}, 7]
    file = tmp_path / "presets.json"
    file.write_text(json.dumps(exported), encoding="utf-8")
    page.locator(".presets-file").set_input_files(file)
    expect(page.locator(".presets-said")).to_have_text("Presets read: 2.")
    assert page.evaluate(STORED) == ["pirate", HOSTILE]
    page.locator(".presets-list").select_option(HOSTILE)
    expect(temperature).to_have_value("2")  # as much as there is
    expect(prompt).to_have_value("")
    assert page.evaluate("window.hacked") is None
    file.write_text("{", encoding="utf-8")
    page.locator(".presets-file").set_input_files(file)
    expect(page.locator(".presets-said")).to_contain_text("no presets")
