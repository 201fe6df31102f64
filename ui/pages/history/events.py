"""Handlers of the history's buttons: each takes a request and returns the panel's new values."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from markupsafe import Markup

from ui.auth.access import Admit, admit
from ui.auth.identity import owner_of
from ui.auth.limits import RateLimitExceeded
from ui.conversations.database import Conversation
from ui.conversations.json_transfer import TransferError, from_json, max_bytes, to_json
from ui.conversations.markdown import to_markdown
from ui.conversations.store import NotFound, Store, StoreError
from ui.i18n.words import Translator, translator
from ui.pages.assets import File

LISTED = 200  # more lines make a slow page; the search finds the others
Shown = list[Any]
P = ParamSpec("P")
T = TypeVar("T")


def in_one_line(handler: Callable[P, T]) -> Callable[P, T]:
    """Make a handler show a StoreError in one line on the page; Gradio would log its traceback."""

    @wraps(handler)
    def handled(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return handler(*args, **kwargs)
        except StoreError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return handled


class HistoryActions:
    """Event handlers. `Shown` holds values for: list, note, open chat's buttons, pin, naming, asking.

    Handlers that open a chat put its id first. The others leave it: their response may arrive after
    the next click on the list.
    """

    def __init__(
        self, store: Store, owner_of: Callable[[gr.Request], str] = owner_of, admit: Admit = admit
    ) -> None:
        self._store, self._owner_of, self._admit = store, owner_of, admit
        self._importing = threading.Lock()  # one file at a time, since each takes much memory

    @in_one_line
    def start(self, request: gr.Request, key: str, search: str) -> Shown:
        """Open the chat that was open before the page was loaded, if it still exists."""
        return self._opened(request, key, search)

    @in_one_line
    def refresh(self, request: gr.Request, key: str, search: str | None) -> Shown:
        """Update the list."""
        return self._show(request, key, search)

    @in_one_line
    def open(self, request: gr.Request, search: str, chosen: gr.SelectData) -> Shown:
        """Open the chat that was chosen in the list."""
        return self._opened(request, str(chosen.value), search)

    @in_one_line
    def new(self, request: gr.Request, search: str) -> Shown:
        """Begin a new chat."""
        return self._opened(request, "", search)

    @in_one_line
    def pin(self, request: gr.Request, key: str, search: str) -> Shown:
        """Pin or unpin the open chat."""
        owner = self._owner_of(request)
        with suppress(NotFound):  # another tab has deleted it
            self._store.pin(owner, key, not self._store.summary(owner, key).pinned)
        return self._show(request, key, search)

    @in_one_line
    def ask_title(self, request: gr.Request, key: str) -> tuple[Any, Any, Any]:
        """Show the text box for the title, with the present title."""
        try:
            title = self._store.summary(self._owner_of(request), key).title
        except NotFound as error:
            raise _gone(request) from error
        return gr.Row(visible=True), title, gr.Column(visible=False)

    @in_one_line
    def rename(self, request: gr.Request, key: str, search: str, title: str) -> Shown:
        """Give the open chat a title; an empty one changes nothing."""
        try:
            self._store.rename(self._owner_of(request), key, title)
        except NotFound:
            return self._show(request, key, search, translator(request)("history.gone"))
        return self._show(request, key, search)

    def ask_delete(self, request: gr.Request) -> tuple[Any, Any, bool, Any]:
        """Ask before the open chat is deleted. In a frame of another site, browsers show no `confirm`."""
        return _ask(translator(request)("history.delete_sure"), everything=False)

    def ask_delete_all(self, request: gr.Request) -> tuple[Any, Any, bool, Any]:
        """Ask before everything is deleted."""
        return _ask(translator(request)("history.delete_all_sure"), everything=True)

    @in_one_line
    def delete(self, request: gr.Request, key: str, search: str, everything: bool) -> Shown:
        """Delete the open chat, or all chats."""
        owner = self._owner_of(request)
        if everything:
            self._store.delete_all(owner)
        else:
            with suppress(NotFound):  # another tab was quicker
                self._store.delete(owner, key)
        return self._opened(request, "", search)

    @in_one_line
    def import_file(self, request: gr.Request, key: str, search: str, file: str) -> Shown:
        """Import a file, which is then removed from the server."""
        t, path = translator(request), Path(file)
        try:
            note = t("history.imported", count=self._import(request, path))
        except (RateLimitExceeded, TransferError, StoreError) as error:
            note = t("history.not_imported", error=error)
        finally:
            path.unlink(missing_ok=True)
        return [*self._show(request, key, search, note), None]

    def _import(self, request: gr.Request, path: Path) -> int:
        """Import a file and return its number of chats. Counts as a request for the rate limit."""
        self._admit(request)
        owner = self._owner_of(request)
        if (size := path.stat().st_size) > max_bytes(owner):
            raise TransferError(f"it has {size:,} bytes: at most {max_bytes(owner):,} are read")
        if not self._importing.acquire(blocking=False):  # waiting would block a thread
            raise TransferError("another file is being imported: try again in a minute")
        try:
            conversations = from_json(path.read_bytes())
            if len(conversations) > (room := self._store.remaining_quota(owner)):
                raise TransferError(f"it has {len(conversations)} chats, and there is room for {room}")
            self._store.insert(owner, conversations)
        finally:
            self._importing.release()
        return len(conversations)

    @in_one_line
    def this_markdown(self, request: gr.Request, key: str) -> File:
        """Export the open chat as Markdown."""
        return _markdown(self._this(request, key))

    @in_one_line
    def this_json(self, request: gr.Request, key: str) -> File:
        """Export the open chat as JSON."""
        return _json(self._this(request, key))

    @in_one_line
    def all_markdown(self, request: gr.Request, key: str) -> File:
        """Export all chats as Markdown."""
        return _markdown(self._all(request))

    @in_one_line
    def all_json(self, request: gr.Request, key: str) -> File:
        """Export all chats as JSON."""
        return _json(self._all(request))

    def _this(self, request: gr.Request, key: str) -> list[Conversation]:
        try:
            return [self._store.load(self._owner_of(request), key)]
        except NotFound as error:
            raise _gone(request) from error

    def _all(self, request: gr.Request) -> list[Conversation]:
        owner = self._owner_of(request)
        return [self._store.load(owner, found.id) for found in reversed(self._store.list(owner))]

    def _show(self, request: gr.Request, key: str, search: str | None, note: str = "") -> Shown:
        return self._opened(request, key, search, note)[1:]

    def _opened(self, request: gr.Request, key: str, search: str | None, note: str = "") -> Shown:
        """Like `_show`, after the id of the open chat, which is "" if it is gone."""
        owner, t = self._owner_of(request), translator(request)
        everything = {found.id: found for found in self._store.list(owner)}
        found = self._store.list(owner, search) if search and search.strip() else tuple(everything.values())
        current = everything.get(key)
        listed = [(_line(item.title, item.pinned, t), item.id) for item in found[:LISTED]]
        is_listed = current and current.id in {value for _, value in listed}
        note = note or _note(t, len(everything), len(found))
        pin = t("history.unpin" if current and current.pinned else "history.pin")
        return [
            current.id if current else "",
            gr.Radio(listed, value=current.id if current and is_listed else None),
            gr.HTML(Markup.escape(note), visible=bool(note)),
            gr.Row(visible=current is not None),
            gr.Button(pin),
            gr.Row(visible=False),
            gr.Column(visible=False),
        ]


def _gone(request: gr.Request) -> gr.Error:
    return gr.Error(translator(request)("history.gone"), print_exception=False)


def _line(title: str, pinned: bool, t: Translator) -> str:
    return f"{'★ ' if pinned else ''}{title or t('page.new_chat')}"


def _note(t: Translator, everything: int, found: int) -> str:
    if not everything:
        return t("history.none")
    if not found:
        return t("history.not_found")
    return t("history.older", count=found - LISTED) if found > LISTED else ""


def _ask(question: str, everything: bool) -> tuple[Any, Any, bool, Any]:
    return gr.Column(visible=True), Markup.escape(question), everything, gr.Row(visible=False)


def _markdown(conversations: list[Conversation]) -> File:
    return _file(conversations, to_markdown(conversations), "md", "text/markdown")


def _json(conversations: list[Conversation]) -> File:
    return _file(conversations, to_json(conversations), "json", "application/json")


def _file(conversations: list[Conversation], content: str, ending: str, kind: str) -> File:
    """The name is the title's letters and digits, which every file system takes."""
    title = conversations[0].title if len(conversations) == 1 else ""
    plain = "-".join("".join(c if c.isalnum() else " " for c in title).split())[:50]
    return {"name": f"{plain or 'chats'}.{ending}", "type": kind, "content": content}
