"""The browser of the benchmarks: Chromium, driven by playwright, which requirements-dev.txt has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class NoBrowser(InputError):
    """There is no browser, or nothing that drives one."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium, without a graphics card. Raises NoBrowser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser("there is no playwright: pip install -r requirements-dev.txt") from None
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise NoBrowser("there is no browser: install chromium, or set CHROMIUM to one")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        try:
            browser.new_page().goto("about:blank")
            yield browser
        finally:
            browser.close()
