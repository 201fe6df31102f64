"""Takes the pictures of the page for docs/: python scripts/screenshots.py http://127.0.0.1:7860 docs

Needs playwright (requirements-dev.txt) and a Chromium: the one of the environment variable CHROMIUM, else the
system's. `--all` adds light and dark, wide and phone, empty, mid-stream and answered, to look at.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Browser, Page, sync_playwright

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
QUESTION = "Tell me about the sea, with a short list of what lives in it."


def open_page(browser: Browser, url: str, size: dict[str, int], dark: bool) -> Page:
    """A fresh browser window on the page, ready to type into."""
    page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")  # type: ignore[arg-type]
    page.goto(url)
    page.locator("#question textarea").wait_for()
    page.wait_for_timeout(500)
    return page


def shoot(browser: Browser, url: str, out: Path, size: dict[str, int], *, dark: bool, every: bool) -> None:
    """One window's pictures; only the answered one unless `every`."""
    name = ("chat-phone" if size is PHONE else "chat") + ("-dark" if dark else "")
    page = open_page(browser, url, size, dark)
    if every:
        page.screenshot(path=out / f"{name}-empty.png")
    page.locator("#question textarea").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator("#status .busy").wait_for()
    page.wait_for_timeout(1500)
    if every:
        page.screenshot(path=out / f"{name}-streaming.png")
    page.locator("#status", has_text="first word").wait_for(timeout=120_000)
    page.mouse.move(0, 0)
    page.screenshot(path=out / f"{name}.png")
    page.close()


@cli.command()
def main(
    url: Annotated[str, typer.Argument(help="Where the app runs.")] = "http://127.0.0.1:7860",
    out: Annotated[Path, typer.Argument(help="The folder for the pictures.")] = Path("docs"),
    every: Annotated[bool, typer.Option("--all", help="All states, light and dark.")] = False,
) -> None:
    """Take the pictures."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for dark in (False, True) if every else (False,):
            for size in (WIDE, PHONE):
                shoot(browser, url, out, size, dark=dark, every=every)
        browser.close()


if __name__ == "__main__":
    cli()
