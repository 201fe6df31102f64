"""Takes the screenshots for docs/: python scripts/screenshots.py http://127.0.0.1:7860 docs

The app should run the demo model and a second one (`make demo`). Needs playwright (requirements-dev.txt) and
Chromium: the path in the environment variable CHROMIUM, or the system's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Browser, Page, sync_playwright

WIDE, PHONE = (1280, 800), (390, 844)
SLOW = 120_000  # ms
QUESTIONS = ("Ahoy! What do you know about the sea?", "Make a list of three things that live in it.")
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def ask(page: Page, question: str) -> None:
    """Ask a question and wait until the answer is complete."""
    page.locator("#question textarea").fill(question)
    page.keyboard.press("Enter")
    page.locator("#status .busy").wait_for()
    page.locator("#status .busy").wait_for(state="detached", timeout=SLOW)
    page.mouse.move(0, 0)


def talk(page: Page) -> None:
    """Have a short conversation."""
    for question in QUESTIONS:
        ask(page, question)


def branch(page: Page) -> None:
    """Have a conversation and retry its last answer, which shows the versions bar."""
    talk(page)
    page.get_by_label("Retry").last.click()
    page.locator("#status .busy").wait_for()
    page.locator("#status .busy").wait_for(state="detached", timeout=SLOW)


def settings(page: Page) -> None:
    """Open all settings."""
    page.locator("#settings").get_by_text("More", exact=True).click()
    page.wait_for_timeout(600)


def compare(page: Page) -> None:
    """Ask two models side by side."""
    page.locator("#question textarea").fill("Who are you, in one sentence?")
    page.keyboard.press("Enter")
    page.locator("#vote").wait_for(timeout=SLOW)


def quality(page: Page) -> None:
    """Wait until the model's certificate is shown."""
    page.wait_for_timeout(4000)


# name: path, window size, dark mode, preparation
PICTURES: dict[str, tuple[str, tuple[int, int], bool, Callable[[Page], None]]] = {
    "chat": ("", WIDE, False, talk),
    "chat-dark": ("", WIDE, True, branch),
    "chat-phone": ("", PHONE, False, talk),
    "settings": ("", WIDE, False, settings),
    "compare": ("compare", WIDE, False, compare),
    "quality": ("quality", WIDE, False, quality),
}


def shoot(browser: Browser, url: str, out: Path, name: str) -> None:
    """Take one screenshot in a new window."""
    path, (width, height), dark, prepare = PICTURES[name]
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page.goto(f"{url.rstrip('/')}/{path}")
    page.locator("#head").wait_for()
    page.wait_for_timeout(1500)
    prepare(page)
    page.wait_for_timeout(500)
    page.screenshot(path=out / f"{name}.png")
    page.close()


@cli.command()
def main(
    url: Annotated[str, typer.Argument(help="Where the app runs.")] = "http://127.0.0.1:7860",
    out: Annotated[Path, typer.Argument(help="The folder for the pictures.")] = Path("docs"),
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PICTURES)}.")] = None,
) -> None:
    """Take the screenshots."""
    if unknown := set(only or ()) - set(PICTURES):
        raise typer.BadParameter(f"{min(unknown)!r} is no picture: use {', '.join(PICTURES)}")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in only or PICTURES:
            shoot(browser, url, out, name)
        browser.close()


if __name__ == "__main__":
    cli()
