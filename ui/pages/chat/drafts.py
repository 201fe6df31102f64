"""Drafts: each chat's unsent question stays in the browser while another chat is open, and after a reload."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.pages.assets import ADDRESS
from ui.pages.history.panel import HistoryPanel
from ui.static import STATIC

_SCRIPT = (STATIC / "drafts.js").read_text(encoding="utf-8")
_START = f"(...values) => {{ {ADDRESS}; ({_SCRIPT})(...values); return []; }}"
_IN_BROWSER: dict[str, Any] = {"fn": None, "api_visibility": "private"}


def keep_drafts(page: gr.Blocks, history: HistoryPanel) -> None:
    """Connect the events of the open chat to ui/static/drafts.js; none reaches the server."""
    current = history.current
    page.load(inputs=[current], js=_START, **_IN_BROWSER)
    current.change(inputs=[current], js=_call("turn"), **_IN_BROWSER)
    history.on_leave(_call("leave"), _call("forget"))


def _call(name: str) -> str:
    return f"(...values) => {{ window.ggufChatDrafts?.{name}(...values); return []; }}"
