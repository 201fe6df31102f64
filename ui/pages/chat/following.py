"""Answers that a tab has not asked for: one under way in the chat that it opens, and those in other chats.

A tab follows the first as if it had asked. While there are others it looks every few seconds whether they
have ended, since the list of chats marks them; a tab without any sends nothing.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import gradio as gr

from ui.auth.access import OwnerOf
from ui.generation.running import RunningAnswers
from ui.pages.history.panel import QUICK, HistoryPanel

POLL_SECONDS = 2.0


class Following:
    """The components, which show nothing. A change of `follow` begins the events that show an answer.

    `others` holds the ids of the other chats in which an answer of the tab's owner is under way.
    """

    def __init__(self, answers: RunningAnswers) -> None:
        self._answers, self._numbers = answers, count(1)
        self.follow, self.others = gr.State(0), gr.State(())
        self.timer = gr.Timer(POLL_SECONDS, active=False)
        self.outputs = [self.follow, self.others, self.timer]

    def begin(self) -> dict[Any, Any]:
        """Return the update that makes the tab follow its answer."""
        return {self.follow: next(self._numbers)}

    def look(self, owner: str, key: str) -> dict[Any, Any]:
        """Return the update for a tab that shows the chat `key`: look again while others are under way."""
        others = tuple(sorted(self._answers.under_way(owner) - {key}))
        return {self.others: others, self.timer: gr.update(active=bool(others))}

    def wire(self, owner_of: OwnerOf, history: HistoryPanel) -> None:
        """Connect the timer; a look counts as reading, so that no answer of an open tab is unread."""

        async def poll(request: gr.Request, key: str | None) -> dict[Any, Any]:
            owner = owner_of(request)
            self._answers.keep(owner)
            return self.look(owner, key or "")

        self.timer.tick(poll, [history.current], [self.others, self.timer], postprocess=False, **QUICK)
        history.refresh_on(self.others.change)
