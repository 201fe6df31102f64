"""The benchmark of the page in a browser, over a fake backend: what it measures, not how fast it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.browser import NoBrowser, chromium
from bench.browser_page import BrowserOptions, Row, measure_in_browser
from bench.browser_site import Site, add_chats
from bench.report import show_row
from tests.ui.conftest import browser, serving
from tests.ui.fake_backend import FakeBackend
from ui.conversations.store import Store
from ui.models.registry import one_model
from ui.server.app import create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]
PAUSE = 0.02  # seconds before each of an answer's events, of which four precede the first word
WORDS = 12


def test_each_row_is_measured_once_for_each_repeat(browser: Browser, tmp_path: Path) -> None:
    store, seen = Store(tmp_path / "history.db"), list[Row]()
    add_chats(store, (4, 80))
    models = one_model(FakeBackend("word " * (WORDS - 1) + "word", PAUSE))
    models.pool.load()
    options = BrowserOptions(repeats=1, lengths=(4, 80), users=(1,), tokens=WORDS, settled=300)
    with serving(create_app(models, 8, local=True, store=store)) as url:
        rows = measure_in_browser(browser, Site(url, store), options, seen.append)
    assert seen == rows and all(len(row.values) == 1 for row in rows)
    values = {row.name: row.median for row in rows}
    assert list(values)[:4] == [
        "Layout shift, cold",
        "Requests, cold",
        "Weight, cold",
        "Main thread's CPU, cold",
    ]
    assert 0 < values["Requests, warm"] < 25 < values["Requests, cold"]
    assert 1 < values["Weight, warm"] < 100 < values["Weight, cold"] < 1000
    assert values["Main thread's CPU, cold"] > 10
    assert (
        0
        < values["Send to the bubble"]
        <= values["Send to the waiting mark"]
        < values["Send to the first word"]
    )
    assert values["Send to the first word"] > 1000 * 4 * PAUSE
    assert values["An answer in a chat of 80, to its end"] > 1000 * WORDS * PAUSE
    assert 0 < values["1 user: on the page"] < 1 / PAUSE
    assert 0 < values["1 user: the engine without a page"] < 1 / PAUSE


def test_a_row_is_printed_with_its_spread(capsys: pytest.CaptureFixture[str]) -> None:
    show_row(Row("Send to the bubble", "ms", (9.0, 21.26, 12.5)))
    show_row(Row("Layout shift, warm", "", (0.0012,)))
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("  ")[0] == "Send to the bubble" and first.endswith("12.5 ms       (9.0 to 21.3)")
    assert second.endswith(" 0.001")


def test_what_is_missing_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(NoBrowser, match=r"playwright: pip install -r requirements-dev\.txt"), chromium():
        pass
