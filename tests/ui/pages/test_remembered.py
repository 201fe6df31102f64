"""Settings stored in a real browser: restored at once, whatever is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Page, Route, expect

from tests.ui.conftest import FakeSite, becomes, open_settings, until
from tests.ui.fake_backend import FakeBackend
from ui.pages.settings_panel import NAMES, STORAGE_KEY, VERSION, restore
from ui.sampling import ModelSettings

Open = Callable[..., Page]
Start = Callable[[FakeBackend], FakeSite]
FIRST = ModelSettings(1024, {"temperature": 0.6})
DEFAULTS = FIRST.defaults()
GOOD = {
    **{
        "system_prompt": "Be kind.",
        "temperature": 0.2,
        "max_tokens": 64,
        "repeat_penalty": 1.2,
        "top_p": 0.5,
    },
    **{"top_k": 5, "min_p": 0.1, "seed": 4, "stop": "x\n\ny", "overflow": "refuse"},
    **{"frequency_penalty": 0.5, "presence_penalty": -1},
    **{"typical_p": 0.9, "xtc_probability": 0.5, "xtc_threshold": 0.2},
}
LATER: dict[str, float] = {"frequency_penalty": 0, "presence_penalty": 0, "typical_p": 1}
LATER |= {"xtc_probability": 0, "xtc_threshold": 0.1}
OLDER = {name: value for name, value in GOOD.items() if name not in LATER}
BAD = [
    *(("temperature", "0.2"), ("temperature", True), ("temperature", float("nan")), ("temperature", None)),
    *(("top_k", 1.5), ("seed", -1), ("seed", 0.5), ("stop", ["x"]), ("stop", "a\n" * 17)),
    *(("overflow", "explode"), ("system_prompt", 7), ("system_prompt", "x" * 20_001)),
]
NO_MEMORY = [
    None,
    7,
    [],
    "x",
    {},
    {"version": 0, "values": GOOD},
    {"version": 1},
    {"version": 1, "values": [1]},
]


def memory(**changed: object) -> dict[str, Any]:
    return {"version": VERSION, "values": {**GOOD, **changed}}


def restored(page: Page, *cases: tuple[object, dict[str, Any]]) -> list[list[Any]]:
    """Return [value to store, values, preset] for each stored value and the values in the page."""
    script = f"cases => cases.map(now => ({restore(NAMES, FIRST)})(...now))"
    inputs = [[stored, *(shown[name] for name in NAMES)] for stored, shown in cases]
    return [
        [kept, dict(zip(NAMES, values, strict=True)), preset]
        for kept, *values, preset in page.evaluate(script, inputs)
    ]


def test_what_is_in_order_is_taken_back_and_nothing_else(browser: Browser) -> None:
    page = browser.new_page()
    good, *none = restored(
        page, (memory(unheard_of=1), DEFAULTS), *((stored, DEFAULTS) for stored in NO_MEMORY)
    )
    assert good == [None, GOOD, None]
    assert none == [[None, DEFAULTS, "own"]] * len(NO_MEMORY)
    (older,) = restored(page, ({"version": VERSION, "values": OLDER}, DEFAULTS))
    assert older == [None, {**GOOD, **LATER}, None]
    found = restored(page, *((memory(**{name: value}), DEFAULTS) for name, value in BAD))
    assert [values for _, values, _ in found] == [{**GOOD, name: DEFAULTS[name]} for name, _ in BAD]
    first_default = {**GOOD, "max_tokens": 512}  # of version 1, which nobody need have chosen
    for version, tokens in ((1, 0), (VERSION, 512)):
        (former,) = restored(page, ({"version": version, "values": first_default}, DEFAULTS))
        assert former == [None, {**GOOD, "max_tokens": tokens}, None]
    precise = FIRST.presets()["precise"]
    further = memory(**precise, max_tokens=4096, seed=None)
    ((_, values, preset),) = restored(page, (further, DEFAULTS))
    assert (values["max_tokens"], values["seed"], preset) == (1024, None, "precise")
    quick = {**DEFAULTS, "max_tokens": 32, "stop": "END"}
    expected = {**GOOD, "max_tokens": 32, "stop": "END"}
    assert restored(page, (memory(), quick)) == [[{"version": VERSION, "values": expected}, expected, None]]
    page.close()


def number(page: Page, name: str) -> Any:
    return page.locator(f"#set-{name} input[type=number]")


def test_who_is_quicker_than_the_page_keeps_what_was_set(open_page: Open, fake_site: Start) -> None:
    page = open_page(fake_site(FakeBackend()).url)
    stored = f"localStorage.getItem('{STORAGE_KEY}')"
    open_settings(page)
    number(page, "repeat_penalty").fill("1.3")
    becomes(lambda: page.evaluate(f"{stored} !== null"), wanted=True)
    held: list[tuple[Route, Any]] = []

    def hold_the_conversation(route: Route) -> None:
        response = route.fetch()
        if "js_on_load" in response.text():  # the component that Gradio waits for, then
            held.append((route, response))
        else:
            route.fulfill(response=response)

    page.route("**/assets/*.js", hold_the_conversation)
    page.reload()
    open_settings(page)
    number(page, "max_tokens").fill("32")
    until(lambda: page.evaluate("true") and held)
    assert number(page, "repeat_penalty").input_value() == "1.1"
    for route, response in held:
        route.fulfill(response=response)
    for _ in range(2):
        expect(number(page, "repeat_penalty")).to_have_value("1.3")
        expect(number(page, "max_tokens")).to_have_value("32")
        page.unroute_all()
        page.reload()
