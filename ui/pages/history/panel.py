"""The rail of chats: new, the list with its search, export and import of all, delete all.

`current` holds the id of the open conversation ("": a new one, which is listed after the first question) and
survives a reload. `on_open` registers the handler that shows a conversation; `refresh_after` updates the list
when an answer has ended. The list itself, and what can be done with each chat: see chat_list.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ui.conversations.store import Store
from ui.i18n.words import text
from ui.pages.assets import ADDRESS, DOWNLOAD
from ui.pages.history.chat_list import ChatList, UnderWay
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
REFRESH = "() => { window.ggufChats?.refresh(); return []; }"
MARK_CURRENT = "(key) => { window.ggufChats?.setCurrent(key ?? ''); return []; }"
NEW = "() => { window.ggufChats?.show(''); return []; }"
DRAWN = "(key) => { window.ggufChats?.drawn(key ?? ''); return []; }"
OPENED = "(key) => { window.ggufChats?.opened(key ?? ''); return []; }"
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_IN_BROWSER: dict[str, Any] = {"fn": None, "api_visibility": "private"}


# The chat that the address names, a new one for its question, or else the last one. It counts once.
_ASKED = f"""(current) => {{
  const asked = {ADDRESS};
  const chat = asked.chat ?? ("q" in asked ? "" : current);
  delete asked.chat;
  return [chat];
}}"""


class HistoryPanel:
    """The rail: the list of chats and its buttons, inside the page's Blocks; `wire` connects them."""

    def __init__(
        self,
        store: Store,
        page: Page = "chat",
        *,
        settings: bool = True,
        under_way: UnderWay = lambda owner: (),
    ) -> None:
        """Lay out the rail of a page, which may have `settings`; a dot marks the chats `under_way`."""
        self._do, self._elsewhere = HistoryActions(store), page != "chat"
        self._chats = ChatList(store, under_way=under_way)
        # The key is public: an id is useless to anyone but its owner.
        self.current = gr.BrowserState("", storage_key="gguf-chat.conversation", secret="gguf-chat")
        self._file = gr.JSON(visible=False)
        with gr.Sidebar(label=text("history.label"), open=False, width=260, elem_id="history"):
            mark()
            self._new = _button("page.new_chat", "history-new")
            self._list = self._chats.component(on_chat_page=page == "chat")
            with gr.Accordion(text("history.files"), open=False, elem_id="history-files"):
                exports = (self._do.all_markdown, self._do.all_json)
                self._exports = [(_button(f"history.{export.__name__}"), export) for export in exports]
                self._import = _import()
                self._note = gr.HTML("", visible=False, padding=False, elem_id="history-note")
                self._delete_all = _button("history.delete_all", "history-delete-all")
                with gr.Column(visible=False, elem_id="history-sure") as self._asking:
                    self._question = gr.HTML("", padding=False)
                    with gr.Row():
                        self._yes = _button("history.delete", "history-yes")
                        self._no = _button("history.keep", "history-no")
            links(page, settings=settings)
        self._openings: list[Any] = []
        self._chosen: Any = None  # the event of choosing a chat

    def wire(self, page: gr.Blocks) -> None:
        """Connect the events; call it once, inside the page's Blocks."""
        do = self._do
        page.load(None, js=OPEN_WHEN_WIDE)
        started = page.load(self._start, [self.current], [self.current, self._list], js=_ASKED, **QUICK)
        self._openings.append(started)
        if self._elsewhere:
            self._new.click(None, js="() => { location.href = './?chat='; }", api_visibility="private")
        else:
            self._chosen = self._list.open_chat(do.open, None, [self.current], **QUICK)
            self._chosen.then(inputs=[self.current], js=OPENED, **_IN_BROWSER)
            self._openings.append(self._chosen)
            self.new_chat_by(self._new)
        self.current.change(inputs=[self.current], js=MARK_CURRENT, **_IN_BROWSER)
        self._delete_all.click(do.ask_delete_all, None, [self._asking, self._question], **QUICK)
        self._no.click(do.keep_all, None, [self._asking], **QUICK)
        deleted = self._yes.click(do.delete_all, None, [self.current, self._asking], **QUICK)
        self._openings.append(deleted)
        self.refresh_after(deleted)
        for button, export in self._exports:
            made = button.click(export, None, [self._file], **QUICK)
            made.success(None, [self._file], [self._file], js=DOWNLOAD)
        imported = self._import.upload(do.import_file, [self._import], [self._note, self._import], **QUICK)
        self.refresh_after(imported)

    def _start(self, request: gr.Request, key: str) -> tuple[str, Any]:
        """Open the chat that was open before the page was loaded, and list all."""
        current = self._do.start(request, key)
        return current, self._chats.first(request, current)

    def new_chat_by(self, button: gr.Button) -> None:
        """Make a click on this button begin a new chat."""
        button.click(js=NEW, **_IN_BROWSER)

    def on_leave(self, leave: str, delete: str) -> None:
        """Call functions of the browser when the open chat is left, before it is.

        `leave` is called with a click that opens or begins another chat; `delete` with true when all chats
        are to be deleted.
        """
        self._list.open_chat(None, None, None, js=leave, api_visibility="private")
        self._yes.click(None, None, None, js=f"() => ({delete})(true)", api_visibility="private")

    def on_open(self, draw: Callable[..., Any], outputs: Sequence[Any]) -> None:
        """Call `draw(request, current)` whenever another conversation was opened. Call this after `wire`.

        Its updates are sent without postprocessing: see ui/server/page.py.
        """
        for event in self._openings:
            drawn = event.then(draw, [self.current], outputs, postprocess=False, **QUICK)
            if event is self._chosen:
                drawn.then(inputs=[self.current], js=DRAWN, **_IN_BROWSER)

    @staticmethod
    def opener() -> gr.Button:
        """Create the button in the page's head that opens the list, which has its own button to close."""
        button = _button("history.label", "open-history")
        button.click(None, js=f"() => {TOGGLE}")
        return button

    def refresh_after(self, event: Any) -> None:
        """Update titles and their order after an event, such as the end of an answer."""
        self.refresh_on(event.then)

    def refresh_on(self, listener: Callable[..., Any]) -> None:
        """Update the list on a component's event."""
        listener(js=REFRESH, **_IN_BROWSER)


def _button(key: str, elem_id: str | None = None) -> gr.Button:
    return gr.Button(text(key), size="sm", elem_id=elem_id, min_width=0)


def _import() -> gr.UploadButton:
    return gr.UploadButton(
        text("history.import"),  # type: ignore[arg-type]
        size="sm",
        file_types=[".json"],
        type="filepath",
        elem_id="history-import",
    )
