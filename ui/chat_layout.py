"""The parts of the chat panel: the conversation, the box, the note and the line below them."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.components.chatbot import ExampleMessage

from ui.markup import LATEX
from ui.texts import ENGLISH, Words
from ui.translation import text

EXAMPLES = ("chat.example_1", "chat.example_2", "chat.example_3", "chat.example_4")
SHORTCUTS = (
    ("Enter", "help.send"),
    ("Shift + Enter", "help.line"),
    ("Esc", "help.stop"),
    ("/", "help.box"),
    ("Ctrl + Shift + O", "help.new"),
    ("↑ ↓", "help.messages"),
    ("Enter", "help.mark"),
    ("← → Del", "help.marked"),
)


def examples(say: Words) -> list[ExampleMessage]:
    """Questions to begin with."""
    return [{"text": say(key)} for key in EXAMPLES]


def chatbot() -> gr.Chatbot:
    """The conversation; what it holds is only shown, the store knows what is true."""
    return gr.Chatbot(
        elem_id="conversation",
        label=text("chat.label"),
        show_label=False,
        container=False,
        height="auto",
        scale=1,
        layout="bubble",
        buttons=["copy"],
        editable="user",
        latex_delimiters=LATEX,
        sanitize_html=True,
        allow_tags=False,
        group_consecutive_messages=True,  # thoughts and answer are one bubble
        placeholder=text("chat.empty"),  # type: ignore[arg-type]  # Gradio translates it all the same
        examples=examples(ENGLISH),
    )


def box() -> gr.Textbox:
    """Where one writes."""
    return gr.Textbox(
        elem_id="question",
        label=text("chat.message"),
        show_label=False,
        container=False,
        placeholder=text("chat.placeholder"),
        lines=1,
        max_lines=8,
        autofocus=True,
        submit_btn=text("chat.send"),  # type: ignore[arg-type]
        stop_btn=False,
        html_attributes=gr.InputHTMLAttributes(enterkeyhint="send"),
    )


def busy(*, clear: bool = False) -> Any:
    """The box with Stop in place of Send. A fresh update each time: Gradio takes it apart."""
    return _box("" if clear else None, submit_btn=False, stop_btn=text("chat.stop"))


def idle(holding: str | None = None) -> Any:
    """The box ready for a question, holding a text, or what the user is typing already."""
    return _box(holding, submit_btn=text("chat.send"), stop_btn=False)


def _box(value: str | None, **buttons: Any) -> Any:
    return gr.update(**buttons) if value is None else gr.update(value=value, **buttons)


def help_button(say: Words) -> str:
    """A question mark that opens the list of shortcuts; the browser's own popover, no script.

    It carries what messages are called, for ui/marking.js.
    """
    rows = "".join(f"<dt><kbd>{keys}</kbd></dt><dd>{escape(say(key))}</dd>" for keys, key in SHORTCUTS)
    label = escape(say("help.label"), quote=True)
    names = f"title='{label}' aria-label='{label}'"
    names += f" data-message='{escape(say('bar.message', number='{number}'), quote=True)}'"
    names += f" data-reply='{escape(say('bar.reply', number='{number}'), quote=True)}'"
    return (
        f"<button type='button' id='help' popovertarget='shortcuts' {names}>?</button>"
        f"<div id='shortcuts' popover><dl>{rows}</dl><p>{escape(say('help.click'))}</p></div>"
    )
