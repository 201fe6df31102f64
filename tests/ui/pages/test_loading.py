"""A page loads without jumps, from few requests, and is drawn in few sizes of type and few radii."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.ui.conftest import FakeSite, open_settings, serving
from tests.ui.fake_backend import FakeBackend
from ui.auth.access import Access
from ui.models.registry import one_model
from ui.server.app import create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

Start = Callable[[FakeBackend], FakeSite]

ANSWER = "Some **bold** words and `code`:\n\n```python\nx = 1\n```\n\n| a | b |\n|---|--:|\n| c | 1 |"
SHIFT = 0.05  # of web.dev's cumulative layout shift
REQUESTS, COLD_BYTES = 25, 450_000
SIZES, RADII = 5, 3
# The sum of all shifts that no input caused.
OBSERVE = """() => {
  window.shifts = [];
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
    if (!entry.hadRecentInput)
      window.shifts.push([entry.value, entry.sources.map((one) => one.node?.id || one.node?.className)]);
  })).observe({ type: 'layout-shift', buffered: true });
}"""
# The font sizes of visible text, without formulas, and the radii of visible boxes that are painted.
DRAWN = """() => {
  const sizes = {}, radii = {};
  const add = (all, key, e) => (all[key] ??= []).push(e.id || String(e.className) || e.tagName);
  for (const e of document.querySelectorAll('body *')) {
    const seen = e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (!seen || e.closest('.katex')) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!box.width || !box.height || box.right <= 0 || box.left >= innerWidth) continue;
    if (box.bottom <= 0 || box.top >= innerHeight) continue;
    const text = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if ((text || e.matches('input, textarea')) && style.fontSize !== '0px') add(sizes, style.fontSize, e);
    const clear = 'rgba(0, 0, 0, 0)', line = style.borderTopWidth !== '0px' && style.borderTopColor !== clear;
    const painted = style.backgroundColor !== clear || line || style.boxShadow !== 'none';
    if (painted && style.borderTopLeftRadius !== '0px') add(radii, style.borderTopLeftRadius, e);
  }
  return [sizes, radii];
}"""


@dataclass
class Traffic:
    """What a page fetched from the server itself: the bytes of each request by its number."""

    sizes: dict[str, float] = field(default_factory=dict)

    def watch(self, context: BrowserContext, page: Page) -> None:
        """Record the page's requests, without those that the browser's cache answers."""
        session = context.new_cdp_session(page)
        session.send("Network.enable")

        def drop(event: dict[str, Any]) -> None:
            if event.get("response", {"fromDiskCache": True}).get("fromDiskCache"):
                self.sizes.pop(event["requestId"], None)

        def count(event: dict[str, Any]) -> None:
            if event["requestId"] in self.sizes:
                self.sizes[event["requestId"]] += event["encodedDataLength"]

        def complete(
            event: dict[str, Any],
        ) -> None:
            if event["requestId"] in self.sizes:
                self.sizes[event["requestId"]] = event["encodedDataLength"]

        session.on("Network.requestWillBeSent", self._sent)
        session.on("Network.requestServedFromCache", drop)
        session.on("Network.responseReceived", drop)
        session.on("Network.dataReceived", count)
        session.on("Network.loadingFinished", complete)

    def _sent(self, event: dict[str, Any]) -> None:
        if event["request"]["url"].startswith("http"):
            self.sizes[event["requestId"]] = 0


def visit(context: BrowserContext, url: str) -> tuple[Page, Traffic]:
    """Open a page and wait until it has settled; return its traffic up to then."""
    page, traffic = context.new_page(), Traffic()
    traffic.watch(context, page)
    page.add_init_script(f"({OBSERVE})()")
    page.goto(url)
    page.locator("#head").wait_for()
    page.wait_for_load_state("load")
    page.wait_for_timeout(1200)
    return page, traffic


def assert_calm(page: Page) -> None:
    shifts = page.evaluate("window.shifts")
    assert sum(value for value, _ in shifts) < SHIFT, shifts


def assert_few_sizes(page: Page) -> None:
    sizes, radii = page.evaluate(DRAWN)
    assert len(sizes) <= SIZES, sizes
    assert len(radii) <= RADII, radii


@pytest.mark.parametrize(
    ("path", "width", "dark"),
    [("", 1440, True), ("", 390, False), ("compare", 1024, False), ("quality", 390, True)],
)
def test_a_page_loads_calmly_from_few_requests(
    browser: Browser, fake_site: Start, path: str, width: int, dark: bool
) -> None:
    site = fake_site(FakeBackend(ANSWER))
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light"
    )
    page, traffic = visit(context, f"{site.url}/{path}")
    assert_calm(page)
    assert_few_sizes(page)
    assert sum(traffic.sizes.values()) < COLD_BYTES
    if not path:
        page.locator("#question textarea").fill("Hello")
        page.keyboard.press("Enter")
        expect(page.locator("#chat .message.bot .stats")).to_be_visible()
        page.mouse.move(0, 0)
        assert_few_sizes(page)
    if path != "quality":
        open_settings(page)
        assert_few_sizes(page)
    page.close()

    page, traffic = visit(context, f"{site.url}/{path}")  # with a chat to show
    assert_calm(page)
    assert 0 < len(traffic.sizes) < REQUESTS
    context.close()


def test_the_login_has_few_sizes_and_the_typeface(browser: Browser) -> None:
    with serving(create_app(one_model(FakeBackend()), 4, access=Access({"anna": "secret"}))) as url:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(url)
        page.locator("form").wait_for()
        assert_few_sizes(page)
        assert page.evaluate("document.fonts.load('16px Inter').then((faces) => faces.length)") == 1
        assert page.locator("h1").evaluate("(e) => getComputedStyle(e).fontFamily").startswith("Inter")
        page.close()


def test_a_page_at_rest_draws_nothing(open_page: Callable[..., Page], fake_site: Start) -> None:
    page = open_page(fake_site(FakeBackend()).url)
    count = """const next = window.requestAnimationFrame.bind(window);
    window.frames_asked = 0;
    window.requestAnimationFrame = (act) => (window.frames_asked++, next(act));"""
    page.context.add_init_script(count)
    page.reload()
    page.locator(".example").first.wait_for()
    asked = [page.evaluate("window.frames_asked")]
    while len(asked) < 10 and (
        len(asked) == 1 or asked[-1] - asked[-2] > 5
    ):  # Gradio's mark of loading swings out
        page.wait_for_timeout(1_000)
        asked.append(page.evaluate("window.frames_asked"))
    assert asked[0] > 0 and asked[-1] - asked[-2] <= 5, asked
