"""The page's address: it names the open chat, so that a reload or a bookmark opens it again."""

from __future__ import annotations

import gradio as gr

from ui.pages.assets import ADDRESS

_SHOW = f"""(key) => {{
  {ADDRESS}; // before it changes
  const url = new URL(location.href);
  ["chat", "q", "model"].forEach((name) => url.searchParams.delete(name));
  if (key) url.searchParams.set("chat", key);
  if (url.href !== location.href) history.replaceState(history.state, "", url);
  return [];
}}"""


def keep_address(page: gr.Blocks, current: gr.BrowserState) -> None:
    """Show the id of the open chat in the address; `q` and `model`, which counted once, leave it."""
    page.load(None, [current], None, js=_SHOW, api_visibility="private")
    current.change(None, [current], None, js=_SHOW, api_visibility="private")
