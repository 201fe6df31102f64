"""Fixtures of the UI tests: the app, a browser, pages over fake backends."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from starlette.types import ASGIApp

from tests.ui.app_process import AppProcess, running
from tests.ui.fake_backend import FakeBackend
from ui.cli import address_of, bind
from ui.models.registry import Models, one_model
from ui.server.app import create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Stops requests by Chromium itself, so that every foreign request is the page's.
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


# Not of the session: playwright occupies this thread's event loop, which other modules need.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        hint = "no browser: apt-get install chromium, or set CHROMIUM to one"
        pytest.fail(hint) if os.environ.get("CI") else pytest.skip(hint)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """Run the real app with only the embedded model, shared by the tests that do not stop it."""
    none = str(tmp_path_factory.mktemp("no-models"))
    with running("--port", "0", "--context", "2048", "--models", none) as process:
        process.address()
        yield process


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages in separate contexts; check at the end that none sent a request to a foreign server."""
    pages: list[tuple[Page, list[str]]] = []

    def open_one(
        url: str, width: int = 1280, height: int = 800, dark: bool = False, locale: str = "en-US"
    ) -> Page:
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            locale=locale,
        )
        foreign: list[str] = []
        page.on(
            "request", lambda request: foreign.append(request.url) if _is_foreign(request.url, url) else None
        )
        pages.append((page, foreign))
        page.goto(url)
        page.locator("#question textarea").wait_for()
        page.wait_for_timeout(300)  # for the animation of the settings panel
        return page

    yield open_one
    for page, foreign in pages:
        page.close()
        assert foreign == []


def _is_foreign(url: str, base: str) -> bool:
    server = "/".join(base.split("/", 3)[:3])
    return not url.startswith((f"{server}/", "data:", "blob:"))


@dataclass
class FakeSite:
    """A page with a fake backend, served by this process."""

    backend: FakeBackend
    url: str


@pytest.fixture
def fake_site() -> Iterator[Callable[[FakeBackend | Models], FakeSite]]:
    with ExitStack() as open_sites:

        def start(served: FakeBackend | Models) -> FakeSite:
            models = served if isinstance(served, Models) else one_model(served)
            models.pool.load()
            address = open_sites.enter_context(serving(create_app(models, 8)))
            return FakeSite(served if isinstance(served, FakeBackend) else FakeBackend(), address)

        yield start


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an application in this process; yield its URL."""
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield address_of(bound)
    server.should_exit = True
    thread.join(10)


@dataclass
class Spy:
    """A foreign server that records the requests it gets."""

    url: str
    visits: list[str] = field(default_factory=list)


@pytest.fixture
def spy() -> Iterator[Spy]:
    visits: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Spy(f"http://127.0.0.1:{server.server_port}", visits)
    server.shutdown()
    server.server_close()


def open_settings(page: Page) -> None:
    """Open the sheet of settings, which is closed at first, and wait until it has slid in."""
    page.locator("#open-settings").click()
    page.locator("#settings.open").wait_for()
    page.wait_for_timeout(300)


def until(condition: Callable[[], object], timeout: float = 10) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def becomes(read: Callable[[], object], wanted: object, timeout: float = 10) -> None:
    """Wait until `read` returns `wanted`: a browser lays out and styles a page asynchronously."""
    end = time.monotonic() + timeout
    while (found := read()) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert found == wanted


def violations(page: Page) -> list[str]:
    """Return the violations that axe rates serious or critical: rule and element."""
    from axe_playwright_python.sync_playwright import Axe

    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    grave = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {node['html'][:120]}" for rule in grave for node in rule["nodes"]]
