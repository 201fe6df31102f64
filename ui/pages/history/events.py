"""Handlers of the history's events: each takes a request and returns the panel's new values."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from markupsafe import Markup

from ui.auth.access import Admit, admit
from ui.auth.identity import owner_of
from ui.auth.limits import RateLimitExceeded
from ui.conversations.database import Conversation
from ui.conversations.json_transfer import TransferError, from_json, max_bytes
from ui.conversations.store import NotFound, Store, StoreError
from ui.i18n.words import translator
from ui.pages.assets import File
from ui.pages.history.files import json_file, markdown_file

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
    """Event handlers. Those that open a chat return its id, "" for a new one or if it is gone."""

    def __init__(
        self, store: Store, owner_of: Callable[[gr.Request], str] = owner_of, admit: Admit = admit
    ) -> None:
        self._store, self._owner_of, self._admit = store, owner_of, admit
        self._importing = threading.Lock()  # one file at a time, since each takes much memory

    @in_one_line
    def start(self, request: gr.Request, key: str) -> str:
        """Open the chat that was open before the page was loaded, if it still exists."""
        return self._existing(request, key)

    @in_one_line
    def open(self, request: gr.Request, chosen: gr.EventData) -> str:
        """Open the chat that was chosen in the list, or a new one."""
        return self._existing(request, str(getattr(chosen, "id", "")))

    def ask_delete_all(self, request: gr.Request) -> tuple[Any, Any]:
        """Ask before everything is deleted. In a frame of another site, browsers show no `confirm`."""
        return gr.Column(visible=True), Markup.escape(translator(request)("history.delete_all_sure"))

    def keep_all(self) -> Any:
        """Ask no longer."""
        return gr.Column(visible=False)

    @in_one_line
    def delete_all(self, request: gr.Request) -> tuple[str, Any]:
        """Delete all chats for good."""
        self._store.delete_all(self._owner_of(request))
        return "", gr.Column(visible=False)

    @in_one_line
    def import_file(self, request: gr.Request, file: str) -> tuple[Any, None]:
        """Import a file, which is then removed from the server."""
        t, path = translator(request), Path(file)
        try:
            note = t("history.imported", count=self._import(request, path))
        except (RateLimitExceeded, TransferError, StoreError) as error:
            note = t("history.not_imported", error=error)
        finally:
            path.unlink(missing_ok=True)
        return gr.HTML(Markup.escape(note), visible=True), None

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
    def all_markdown(self, request: gr.Request) -> File:
        """Export all chats as Markdown."""
        return markdown_file(self._all(request))

    @in_one_line
    def all_json(self, request: gr.Request) -> File:
        """Export all chats as JSON."""
        return json_file(self._all(request))

    def _all(self, request: gr.Request) -> list[Conversation]:
        owner = self._owner_of(request)
        return [self._store.load(owner, found.id) for found in reversed(self._store.list(owner))]

    def _existing(self, request: gr.Request, key: str) -> str:
        try:
            return self._store.summary(self._owner_of(request), key).id
        except NotFound:
            return ""
