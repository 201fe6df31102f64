"""What the chat, /compare and /quality share: the rail's mark and links, and the buttons of the head."""

from __future__ import annotations

from typing import Any, Literal

import gradio as gr
from markupsafe import Markup

from ui.i18n.words import text
from ui.static.look import MARK

Page = Literal["chat", "compare", "quality"]
_LINKS: dict[Page, str] = {"chat": "./", "compare": "compare", "quality": "quality"}


def mark() -> gr.HTML:
    """Create the name at the top of the rail, a link to the chat."""
    name = f"<a href='./'>{MARK}<span>GGUF Chat</span></a>"
    return gr.HTML(Markup(name), padding=False, elem_id="rail-mark")


def links(here: Page, *, settings: bool = True) -> None:
    """Lay out the foot of the rail: the other pages, the settings if the page has any, the theme switch.

    theme.js acts on clicks on the last two, also before Gradio's events are connected.
    """
    with gr.Column(elem_id="rail-foot"):
        for page, address in _LINKS.items():
            if page != here:
                head_button(f"page.{page}", f"open-{page}", link=address)
        if settings:
            head_button("page.settings", "rail-settings")
        head_button("page.theme", "switch-theme")


def settings_button() -> gr.Button:
    """Create the button at the head's right that opens and closes the settings: see theme.js."""
    return head_button("page.settings", "open-settings")


def head_button(key: str, elem_id: str, link: str | None = None) -> gr.Button:
    """Create a quiet button; a style draws its icon."""
    return gr.Button(text(key), size="sm", variant="secondary", scale=0, elem_id=elem_id, link=link)


def line_of_text(key: str, tag: Literal["h1", "h2", "p"], **options: Any) -> gr.HTML:
    """Create a text that Gradio translates, in an HTML element. Gradio's Markdown would load its parser."""
    return gr.HTML(text(key), html_template=f"<{tag}>${{value}}</{tag}>", padding=False, **options)
