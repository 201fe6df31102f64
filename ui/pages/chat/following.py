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

    `others` holds the ids of the other chats in which an answer of the tab's owner is under way; `timer` is
    active while there are some, and `changed` changes when there are others than before.
    """

    def __init__(self, answers: RunningAnswers) -> None:
        self._answers, self._numbers = answers, count(2)
        self.follow, self.changed = _signal(), _signal()
        self.others, self.timer = gr.State(()), gr.Timer(POLL_SECONDS, active=False)
        self.outputs = [self.follow, self.others, self.timer]

    def begin(self) -> dict[Any, Any]:
        """Return the update that makes the tab follow its answer."""
        return {self.follow: gr.update(value=next(self._numbers))}

    def look(self, owner: str, key: str) -> dict[Any, Any]:
        """Return the update for a tab that shows the chat `key`: look again while others are under way."""
        others = tuple(sorted(self._answers.under_way(owner) - {key}))
        return {self.others: others, self.timer: gr.update(active=bool(others))}

    def look_again(self, owner: str, key: str, before: tuple[str, ...]) -> dict[Any, Any]:
        """The same a few seconds later; `before` were the others then.

        It counts as reading, so that no answer of an open tab is unread.
        """
        self._answers.keep(owner)
        found = self.look(owner, key)
        if found[self.others] == before:
            return found
        return found | {self.changed: gr.update(value=next(self._numbers))}

    def wire(self, owner_of: OwnerOf, history: HistoryPanel) -> None:
        """Connect the timer to `look_again`."""

        async def poll(request: gr.Request, key: str | None, before: tuple[str, ...]) -> dict[Any, Any]:
            return self.look_again(owner_of(request), key or "", before)

        outputs = [self.others, self.timer, self.changed]
        self.timer.tick(poll, [history.current, self.others], outputs, postprocess=False, **QUICK)
        history.refresh_on(self.changed.change)


def _signal() -> gr.Timer:
    """Create a component without an appearance that never ticks, and whose value can change.

    A page learns of a changed State only from events in Gradio's queue.
    """
    return gr.Timer(1, active=False)
