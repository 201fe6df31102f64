"""The messages and the box below them, as one component with its own script, and what the server sends it.

Gradio's Chatbot draws every message again for each update, and draws nothing before the server has answered.
Here the browser keeps the messages: an update holds those that changed, and an answer under way alone is sent
while it grows (`growing`). The scripts are ui/static/{markdown,message_list,message,composer}.js.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ui.i18n.words import Translator, translations
from ui.render.html import render
from ui.static import STATIC

EVENTS = (
    *("send", "edit", "retry", "continue", "answer", "follow", "stop", "refresh"),
    *("switch", "undo", "redo", "delete", "restore", "rate", "note", "probabilities", "fork"),
)
"""What the script triggers. Each has a dict as data: `node` is a message's id, `text` a new text."""
EXAMPLES = ("chat.example_1", "chat.example_2", "chat.example_3", "chat.example_4")
_BAR = "redo answer continue delete earlier later version message reply copy edit retry more details undo"
WORDS = {
    **{name: f"bar.{name}" for name in f"{_BAR} save cancel like dislike down".split()},
    **{"ask": "chat.message", "placeholder": "chat.placeholder", "label": "chat.label"},
    **{name: f"chat.{name}" for name in ("send", "stop", "thinking", "thoughts")},
    **{name: f"probabilities.{name}" for name in ("probabilities", "reading", "hide", "fork", "part")},
    **{"note": "note.label", "note_save": "note.save", "note_close": "note.close"},
    **{"note_like": "note.like", "note_dislike": "note.dislike"},
}
"""The names by which the scripts know the texts, and the texts' keys."""
SHORTCUTS = (
    ("Enter", "help.send"),
    ("Shift + Enter", "help.line"),
    ("Esc", "help.stop"),
    ("/", "help.box"),
    ("Ctrl + Shift + O", "help.new"),
    ("Ctrl + K", "help.palette"),
    ("↑ ↓", "help.messages"),
    ("Enter", "help.tools"),
    ("← →", "help.versions"),
    ("Del", "help.delete"),
)
_MOUNT = f"""
const events = {list(EVENTS)};
const mount = () => window.ggufChat.mount(element, trigger, props, watch);
if (window.ggufChat?.mount) mount(); else window.addEventListener("gguf-chat", mount, {{ once: true }});
"""
_LIVE = "watch('value', () => window.ggufChat?.live(props.value));"


class MessageList:
    """The component of the messages and the box (`chat`), and the one for an answer under way (`growing`)."""

    def __init__(self) -> None:
        self.chat = gr.HTML(
            None,
            html_template=(STATIC / "chat.html").read_text(encoding="utf-8"),
            js_on_load=_MOUNT,
            apply_default_css=False,
            elem_id="chat",
        )
        self.growing = gr.HTML(None, html_template="", js_on_load=_LIVE, visible="hidden", elem_id="growing")

    def on(self, event: str) -> Callable[..., Any]:
        """Return the listener of one of the `EVENTS`."""
        listener: Callable[..., Any] = getattr(self.chat, event)
        return listener


def translated(t: Translator) -> dict[str, Any]:
    """Return the texts of the component in a language, for an update. The script fills their placeholders."""
    texts = translations(t.language)
    title, _, text = t("chat.empty").partition("\n")
    return {
        "words": {name: texts[key] for name, key in WORDS.items()},
        "greeting": {
            "title": title.removeprefix("## "),
            "text": text,
            "examples": [t(key) for key in EXAMPLES],
        },
        "help": _help(t),
    }


def _help(t: Translator) -> str:
    """Render a question mark that opens the list of shortcuts, as an HTML popover."""
    return render("help", label=t("help.label"), shortcuts=[(keys, t(key)) for keys, key in SHORTCUTS])


def data(event: gr.EventData) -> Mapping[str, Any]:
    """Return an event's data, which any client may have written; {} for what is no dict."""
    found = event._data
    return found if isinstance(found, dict) else {}


def node_of(event: gr.EventData) -> int:
    """Return the id of the message that an event names; 0, which no message has, for anything else."""
    node = data(event).get("node")
    return node if isinstance(node, int) and not isinstance(node, bool) else 0


def text_of(event: gr.EventData) -> str:
    """Return the text that an event has; "" for anything else."""
    text = data(event).get("text")
    return text if isinstance(text, str) else ""
