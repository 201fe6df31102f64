"""Who asks, from which tab, in which conversation, with which model: an event's inputs, read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.access import admit
from ui.chat_panel import Where
from ui.texts import words
from ui.visitor import owner_of

OwnerOf = Callable[[gr.Request], str]
Admit = Callable[[gr.Request], AbstractContextManager[None]]


@dataclass(frozen=True)
class Asked:
    """An event's inputs without what is asked.

    `admit()` counts a request, and lets it in for the time of the answer: `with` what it returns. It raises
    TooMany.
    """

    where: Where
    session: str
    model: str | None
    settings: Sequence[Any]
    admit: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Reader:
    """Reads events: `context_of` a model in tokens, `owner_of` a request, `admit` for an answer."""

    context_of: Callable[[str | None], int]
    owner_of: OwnerOf = owner_of
    admit: Admit = admit

    def __call__(self, request: gr.Request, tab: Sequence[Any]) -> Asked:
        """`tab` is the tab's view, the open conversation, the model and the settings' values."""
        view, current, model, *settings = tab
        where = Where(self.owner_of(request), view, current or "", self.context_of(model), words(request))
        return Asked(where, str(request.session_hash), model, settings, lambda: self.admit(request))
