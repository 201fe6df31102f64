"""Takes the pictures for docs/: python scripts/screenshots.py http://127.0.0.1:7860 docs

`--all` takes every page in three sizes, light and dark, as chat-wide-light.png and so on. The app should run
the demo model and a second one (`make demo`). Needs playwright (requirements-dev.txt) and Chromium: the path
in the environment variable CHROMIUM, or the system's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Browser, Page, sync_playwright

SLOW = 120_000  # ms
QUESTIONS = ("Ahoy! What do you know about the sea?", "Make a list of three things that live in it.")
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def ask(page: Page, question: str) -> None:
    """Ask a question and wait until the answer is complete."""
    page.locator("#question textarea").fill(question)
    page.keyboard.press("Enter")
    _finish(page)


def _finish(page: Page) -> None:
    page.locator("#question .stop-button").wait_for()
    page.locator("#question .submit-button").wait_for(timeout=SLOW)
    page.mouse.move(0, 0)


def greeting(page: Page) -> None:
    """Show a new chat."""
    page.locator("#chat .example").first.wait_for()


def talk(page: Page) -> None:
    """Have a short conversation."""
    for question in QUESTIONS:
        ask(page, question)


def branch(page: Page) -> None:
    """Have a conversation and answer its last question again, so that there are two versions."""
    talk(page)
    page.locator("#chat .message.bot .retry").last.click()
    _finish(page)


def settings(page: Page) -> None:
    """Open all settings."""
    page.locator("#open-settings").click()
    page.locator("#more-settings button").click()


def chats(page: Page) -> None:
    """Open the list of chats where it is closed, with a chat in it."""
    ask(page, QUESTIONS[0])
    if page.locator("#open-history").is_visible():
        page.locator("#open-history").click()


def compare(page: Page) -> None:
    """Ask two models side by side."""
    page.locator("#question textarea").fill("Who are you, in one sentence?")
    page.keyboard.press("Enter")
    page.locator("#vote").wait_for(timeout=SLOW)


def quality(page: Page) -> None:
    """Wait until the model's certificate is shown."""
    page.locator("#quality-tabs .verdict").wait_for(timeout=SLOW)


# The address of each page, and what is done there.
PAGES: dict[str, tuple[str, Callable[[Page], None]]] = {
    "new": ("", greeting),
    "chat": ("", talk),
    "versions": ("", branch),
    "chats": ("", chats),
    "settings": ("", settings),
    "compare": ("compare", compare),
    "quality": ("quality", quality),
}
SIZES = {"wide": (1440, 900), "middle": (1024, 768), "phone": (390, 844)}
MODES = ("light", "dark")
# The pictures in docs/ and what they show: page, size and mode.
DOCS = {
    "chat": ("chat", "wide", "light"),
    "chat-dark": ("versions", "wide", "dark"),
    "chat-phone": ("chat", "phone", "light"),
    "settings": ("settings", "wide", "light"),
    "compare": ("compare", "wide", "light"),
    "quality": ("quality", "wide", "light"),
}
ALL = {"-".join(shown): shown for shown in product(PAGES, SIZES, MODES)}


def shoot(browser: Browser, url: str, file: Path, shown: tuple[str, str, str]) -> None:
    """Take one picture in a new window."""
    name, size, mode = shown
    path, prepare = PAGES[name]
    width, height = SIZES[size]
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if mode == "dark" else "light"
    )
    page.goto(f"{url.rstrip('/')}/{path}")
    page.locator("#head").wait_for()
    page.wait_for_timeout(1500)
    prepare(page)
    page.wait_for_timeout(800)
    page.screenshot(path=file)
    page.close()


@cli.command()
def main(
    url: Annotated[str, typer.Argument(help="Where the app runs.")] = "http://127.0.0.1:7860",
    out: Annotated[Path, typer.Argument(help="The folder for the pictures.")] = Path("docs"),
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(DOCS)}; with --all of all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every page, size and mode.")] = False,
) -> None:
    """Take the pictures."""
    pictures = ALL if every else DOCS
    if unknown := set(only or ()) - set(pictures):
        raise typer.BadParameter(f"{min(unknown)!r} is no picture: use {', '.join(pictures)}")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in only or pictures:
            shoot(browser, url, out / f"{name}.png", pictures[name])
        browser.close()


if __name__ == "__main__":
    cli()
