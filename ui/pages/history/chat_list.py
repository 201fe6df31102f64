"""The list of chats in the rail: a gr.HTML that ui/static/chat_list.js draws.

The script calls the functions below on the server, each with a `_Request`. Most answer with a view: what the
list shows, after the change. Opening a chat is an event of the page, `open_chat`, since it changes the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ui.auth.identity import owner_of
from ui.conversations.search import marked
from ui.conversations.store import NotFound, Store, StoreError, Summary
from ui.i18n.words import Translator, translator
from ui.pages.history.files import json_file, markdown_file

LISTED = 200  # chats of a folder that are shown at first, and that "more" adds
Answer = dict[str, Any]
UnderWay = Callable[[str], Collection[str]]
"""Returns the ids of an owner's chats in which an answer is under way."""

_TEXTS = (
    "history.as_json",
    "history.as_markdown",
    "history.cancel",
    "history.delete",
    "history.deleted",
    "history.deleted_many",
    "history.done",
    "history.folder",
    "history.gone",
    "history.label",
    "history.live",
    "history.more",
    "history.move",
    "history.move_here",
    "history.new_folder",
    "history.no_folder",
    "history.none",
    "history.not_found",
    "history.options",
    "history.palette",
    "history.pin",
    "history.pinned",
    "history.rename",
    "history.search",
    "history.select",
    "history.selected",
    "history.title",
    "history.today",
    "history.undo",
    "history.unpin",
    "history.unreachable",
    "history.week",
    "history.yesterday",
    "page.new_chat",
)
_SCRIPT = "window.ggufChatList(element, (id) => trigger('open_chat', {id}), props, server, watch)"
_Id = Annotated[str, Field(max_length=100)]
_Line = Annotated[str, Field(max_length=1_000)]


class _Request(BaseModel):
    """What the script asks for. `limits` has the number of chats to show of each open folder, "" for none."""

    model_config = ConfigDict(strict=True, extra="forbid")
    words: _Line = ""
    limits: Annotated[dict[_Line, Annotated[int, Field(ge=0)]], Field(max_length=1_000)] = {"": LISTED}
    current: _Id = ""
    ids: Annotated[list[_Id], Field(max_length=10_000)] = []
    name: _Line = ""  # a title or a folder
    pinned: bool = False
    kind: Literal["markdown", "json"] = "markdown"


Handler = Callable[[gr.Request, _Request], Answer]


class ChatList:
    """The functions that the list's script calls. An answer's `error` is a line to show."""

    def __init__(
        self,
        store: Store,
        owner_of: Callable[[gr.Request], str] = owner_of,
        under_way: UnderWay = lambda owner: (),
    ) -> None:
        self._store, self._owner_of, self._under_way = store, owner_of, under_way

    def component(self, *, on_chat_page: bool) -> gr.HTML:
        """Create the list; on another page, choosing a chat goes to the chat page."""
        handlers = (self.list, self.rename, self.pin, self.move, self.delete, self.restore, self.export)
        return gr.HTML(
            value=None,
            html_template="",
            js_on_load=_SCRIPT,
            apply_default_css=False,
            server_functions=[_server_function(handler) for handler in handlers],
            elem_id="chats",
            here=on_chat_page,
        )

    def first(self, request: gr.Request, current: str) -> Answer:
        """Return the component's value for a new page: the view and the script's texts."""
        t = translator(request)
        gaps = {"count": "{count}", "title": "{title}"}
        texts = {key.partition(".")[2]: t(key, **gaps) for key in _TEXTS}
        view = self._view(self._owner_of(request), _Request(limits={"": LISTED}, current=current), t)
        return {"texts": texts, "language": t.language, "page": LISTED, "current": current, "view": view}

    def list(self, request: gr.Request, asked: _Request) -> Answer:
        """Return the view."""
        return {"view": self._view(self._owner_of(request), asked, translator(request))}

    def rename(self, request: gr.Request, asked: _Request) -> Answer:
        """Give a chat a title; an empty one changes nothing."""
        error = ""
        try:
            for key in asked.ids:
                self._store.rename(self._owner_of(request), key, asked.name)
        except NotFound:
            error = translator(request)("history.gone")
        return self.list(request, asked) | {"error": error}

    def pin(self, request: gr.Request, asked: _Request) -> Answer:
        """Pin or unpin chats."""
        for key in asked.ids:
            try:
                self._store.pin(self._owner_of(request), key, asked.pinned)
            except NotFound:  # another tab has deleted it
                continue
        return self.list(request, asked)

    def move(self, request: gr.Request, asked: _Request) -> Answer:
        """Move chats to a folder, "" for none."""
        self._store.move(self._owner_of(request), asked.ids, asked.name)
        return self.list(request, asked)

    def delete(self, request: gr.Request, asked: _Request) -> Answer:
        """Delete chats; `restore` brings them back for some seconds."""
        self._store.trash(self._owner_of(request), asked.ids)
        return self.list(request, asked)

    def restore(self, request: gr.Request, asked: _Request) -> Answer:
        """Bring deleted chats back."""
        back = self._store.restore(self._owner_of(request), asked.ids)
        error = "" if len(back) == len(asked.ids) else translator(request)("history.gone")
        return self.list(request, asked) | {"error": error}

    def export(self, request: gr.Request, asked: _Request) -> Answer:
        """Return a file with the chats."""
        owner = self._owner_of(request)
        try:
            chats = [self._store.load(owner, key) for key in asked.ids]
        except NotFound:
            return {"error": translator(request)("history.gone")}
        return {"file": (json_file if asked.kind == "json" else markdown_file)(chats)}

    def _view(self, owner: str, asked: _Request, t: Translator) -> Answer:
        """Return the chats of each open folder, "" for none; a search finds those of all folders as one."""
        everything = self._store.list(owner)
        words = " ".join(asked.words.split()).casefold()
        found = self._store.list(owner, words) if words else everything
        folders = Counter(chat.folder for chat in everything if chat.folder and not chat.pinned)
        names = {chat.folder for chat in everything} - {""}
        live, sections = self._under_way(owner), {}
        for name, limit in asked.limits.items():
            inside = [chat for chat in found if words or (chat.folder if not chat.pinned else "") == name]
            if name == "" or (inside and not words):
                items = [_item(chat, live, words, t) for chat in inside[:limit]]
                sections[name] = {"items": items, "more": max(0, len(inside) - limit)}
        return {
            "sections": sections,
            "folders": [{"name": name, "count": folders[name]} for name in sorted(names, key=str.casefold)],
            "folder": next((chat.folder for chat in everything if chat.id == asked.current), None),
            "current": asked.current,
            "words": words,
        }


def _item(chat: Summary, live: Collection[str], words: str, t: Translator) -> Answer:
    title = chat.title or t("page.new_chat")
    item = {
        "id": chat.id,
        "title": title,
        "pinned": chat.pinned,
        "updated": chat.updated,
        "folder": chat.folder,
        "live": chat.id in live,
    }
    if words:
        excerpt = "" if chat.excerpt == title else chat.excerpt
        item |= {"marked": marked(title, words), "excerpt": marked(excerpt, words)}
    return item


def _server_function(handler: Handler) -> Callable[..., Answer]:
    def call(request: gr.Request, data: dict[str, Any]) -> Answer:
        try:
            return handler(request, _Request.model_validate(data))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return {"error": f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}"}
        except StoreError as error:
            return {"error": str(error)}

    call.__name__ = f"{handler.__name__}_chats"
    return call
