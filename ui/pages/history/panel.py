"""The sidebar of chats: new, search, open, rename, pin, delete, export, import.

`current` holds the id of the open conversation ("": a new one, which is listed after the first question) and
survives a reload. `on_open` registers the handler that shows a conversation; `refresh_after` updates the list
when an answer has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ui.conversations.store import Store
from ui.i18n.words import text
from ui.pages.assets import ADDRESS, DOWNLOAD
from ui.pages.history.events import HistoryActions
from ui.pages.shell import Page, links, mark

TOGGLE = "document.querySelector('#history .toggle-button').click()"
# Until then a style keeps room for the rail: see shell.css.
OPEN_WHEN_WIDE = f"""() => {{
  const ready = () => document.documentElement.classList.add('rail-ready');
  if (window.innerWidth <= 900) return ready();
  {TOGGLE};
  setTimeout(ready, 400); // it slides in for 300 ms
}}"""
OPEN_IN_CHAT = "(key) => { location.href = `./?chat=${encodeURIComponent(key ?? '')}`; return []; }"
CLOSE_ON_A_PHONE = (
    f"() => {{ if (window.innerWidth < 768 && document.querySelector('#history.open')) {TOGGLE} }}"
)
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


# The chat that the address names, a new one for its question, or else the last one. It counts once.
_ASKED = f"""(current, search) => {{
  const asked = {ADDRESS};
  const chat = asked.chat ?? ("q" in asked ? "" : current);
  delete asked.chat;
  return [chat, search];
}}"""


class HistoryPanel:
    """The rail: the list of chats and its buttons, inside the page's Blocks; `wire` connects them."""

    def __init__(self, store: Store, page: Page = "chat", *, settings: bool = True) -> None:
        """Lay out the rail of a page, which may have `settings`."""
        self._do, self._elsewhere = (do := HistoryActions(store)), page != "chat"
        # The key is public: an id is useless to anyone but its owner.
        self.current = gr.BrowserState("", storage_key="gguf-chat.conversation", secret="gguf-chat")
        self._file = gr.JSON(visible=False)
        with gr.Sidebar(label=text("history.label"), open=False, width=260, elem_id="history"):
            mark()
            self._new = _button("page.new_chat", "history-new")
            self._search = _search()
            self._note = gr.HTML("", visible=False, padding=False, elem_id="history-note")
            self._chats = _chats()
            with gr.Row(visible=False, elem_id="history-open") as self._open:
                self._rename = _button("history.rename", "history-rename")
                self._pin = _button("history.pin", "history-pin")
                self._delete = _button("history.delete", "history-delete")
            with gr.Row(visible=False, elem_id="history-title") as self._naming:
                self._title = _title()
            with gr.Column(visible=False, elem_id="history-sure") as self._asking:
                self._question = gr.HTML("", padding=False)
                with gr.Row():
                    self._yes = _button("history.delete", "history-yes")
                    self._no = _button("history.keep", "history-no")
            with gr.Accordion(text("history.files"), open=False, elem_id="history-files"):
                exports = (do.this_markdown, do.this_json, do.all_markdown, do.all_json)
                self._exports = [(_button(f"history.{export.__name__}"), export) for export in exports]
                self._import = _import()
                self._delete_all = _button("history.delete_all", "history-delete-all")
            links(page, settings=settings)
        self._all = gr.State(False)  # whether `yes` means all chats
        self._listed = [self._chats, self._note, self._open, self._pin, self._naming, self._asking]
        self._shown = [self.current, *self._listed]
        self._openings: list[Any] = []
        self._leaving: list[Callable[..., Any]] = []  # listeners to the buttons that begin a new chat

    def wire(self, page: gr.Blocks) -> None:
        """Connect the events; call it once, inside the page's Blocks."""
        do, here = self._do, [self.current, self._search]
        page.load(None, js=OPEN_WHEN_WIDE)
        self._openings.append(page.load(do.start, here, self._shown, js=_ASKED, **QUICK))
        if self._elsewhere:
            self._chats.select(None, [self._chats], None, js=OPEN_IN_CHAT, api_visibility="private")
            self._new.click(None, js="() => { location.href = './?chat='; }", api_visibility="private")
        else:
            chosen = self._chats.select(do.open, [self._search], self._shown, **QUICK)
            chosen.then(None, js=CLOSE_ON_A_PHONE)
            self._openings.append(chosen)
            self.new_chat_by(self._new)
        self._search.change(do.refresh, here, self._listed, trigger_mode="always_last", **QUICK)
        self.current.change(do.refresh, here, self._listed, **QUICK)  # a first question makes a chat
        self._pin.click(do.pin, here, self._listed, **QUICK)
        naming = [self._naming, self._title, self._asking]
        self._rename.click(do.ask_title, [self.current], naming, **QUICK).then(
            None, js="() => document.querySelector('#history-title input, #history-title textarea')?.select()"
        )
        self._title.submit(do.rename, [*here, self._title], self._listed, **QUICK)
        asking = [self._asking, self._question, self._all, self._naming]
        self._delete.click(do.ask_delete, None, asking, **QUICK)
        self._delete_all.click(do.ask_delete_all, None, asking, **QUICK)
        self._no.click(do.refresh, here, self._listed, **QUICK)
        self._openings.append(self._yes.click(do.delete, [*here, self._all], self._shown, **QUICK))
        for button, export in self._exports:
            made = button.click(export, [self.current], [self._file], **QUICK)
            made.success(None, [self._file], [self._file], js=DOWNLOAD)
        self._import.upload(do.import_file, [*here, self._import], [*self._listed, self._import], **QUICK)

    def new_chat_by(self, button: gr.Button) -> None:
        """Make a click on this button begin a new chat."""
        self._leaving.append(button.click)
        begun = button.click(self._do.new, [self._search], self._shown, **QUICK)
        begun.then(None, js=CLOSE_ON_A_PHONE)
        self._openings.append(begun)

    def on_leave(self, leave: str, delete: str) -> None:
        """Call functions of the browser when the open chat is left, before it is.

        `leave` is called with a click that opens or begins another chat; `delete` with whether all chats are
        to be deleted.
        """
        for listener in (*self._leaving, self._chats.select):
            listener(None, None, None, js=leave, api_visibility="private")
        self._yes.click(None, [self._all], None, js=delete, api_visibility="private")

    def on_open(self, draw: Callable[..., Any], outputs: Sequence[Any]) -> None:
        """Call `draw(request, current)` whenever another conversation was opened. Call this after `wire`.

        Its updates are sent without postprocessing: see ui/server/page.py.
        """
        for event in self._openings:
            event.then(draw, [self.current], outputs, postprocess=False, **QUICK)

    @staticmethod
    def opener() -> gr.Button:
        """Create the button in the page's head that opens the list, which has its own button to close."""
        button = _button("history.label", "open-history")
        button.click(None, js=f"() => {TOGGLE}")
        return button

    def refresh_after(self, event: Any) -> None:
        """Update titles and their order after an event, such as the end of an answer."""
        event.then(self._do.refresh, [self.current, self._search], self._listed, **QUICK)


def _button(key: str, elem_id: str | None = None) -> gr.Button:
    return gr.Button(text(key), size="sm", elem_id=elem_id, min_width=0)


def _search() -> gr.Textbox:
    return gr.Textbox(
        label=text("history.search"),
        placeholder=text("history.search"),
        show_label=False,
        container=False,
        lines=1,
        max_lines=1,
        elem_id="history-search",
    )


def _chats() -> gr.Radio:
    return gr.Radio(
        [],
        label=text("history.label"),
        show_label=False,
        container=False,
        interactive=True,
        elem_id="history-list",
    )


def _title() -> gr.Textbox:
    return gr.Textbox(
        label=text("history.title"),
        container=False,
        show_label=False,
        lines=1,
        max_lines=1,
        max_length=60,
        submit_btn=text("history.save"),  # type: ignore[arg-type]
        interactive=True,
    )


def _import() -> gr.UploadButton:
    return gr.UploadButton(
        text("history.import"),  # type: ignore[arg-type]
        size="sm",
        file_types=[".json"],
        type="filepath",
        elem_id="history-import",
    )
