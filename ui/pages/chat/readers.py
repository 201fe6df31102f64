"""Browser tabs as readers of answers: which answer each tab shows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ui.generation.running import RunningAnswer
from ui.generation.sessions import BoundedDict
from ui.pages.chat.navigation import ConversationState
from ui.pages.chat.panel import TabContext


@dataclass(eq=False)
class Reader:
    """A tab that has asked for an answer, or has opened a conversation with one under way.

    `answer`, and `there`, which the tab shows then, are None until it has begun. `question` goes back into
    the box when it cannot be answered. `key` is the conversation's, "" for a new one. `shown`: the tab still
    shows it; `followed`: an event sends the answer to the tab, each time that `changed` is set; `lost`: its
    connection has ended; `stopped`: the tab has stopped the answer.
    """

    tab: TabContext
    key: str
    question: str | None = None
    answer: RunningAnswer | None = None
    there: ConversationState | None = None
    shown: bool = True
    stopped: bool = False
    followed: bool = False
    lost: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_waiting(self) -> bool:
        """True while the tab shows an answer that has not ended."""
        return self.shown and (self.answer is None or not self.answer.done)

    @property
    def ended(self) -> ConversationState:
        """The conversation that the tab shows, down to the answer."""
        assert self.there is not None and self.answer is not None
        return self.there.view_at(self.answer.node.id)

    def begin(self, answer: RunningAnswer, there: ConversationState) -> None:
        """Read an answer that is under way; the tab shows `there`."""
        self.answer, self.there = answer, there
        if self.stopped:
            answer.cancel()

    async def next_change(self) -> None:
        """Wait for a change of the answer, or until the tab turns away."""
        await self.changed.wait()
        self.changed.clear()

    def stop(self) -> None:
        """Stop the answer, for all its readers; before it has begun too. Returns at once."""
        self.stopped = True
        if self.answer is not None:
            self.answer.cancel()

    def leave(self) -> None:
        """Show something else; the answer goes on."""
        self.shown = False
        self.changed.set()


class TabReaders:
    """The reader of each tab, by session. Used only from the event loop, so it needs no lock."""

    def __init__(self) -> None:
        self._readers = BoundedDict[str, Reader]()

    def get(self, session: str) -> Reader | None:
        """Return the tab's reader."""
        return self._readers.get(session)

    def set(self, session: str, reader: Reader) -> None:
        """Make the tab read this answer, and no other."""
        self.leave(session)
        self._readers[session] = reader

    def is_current(self, session: str, key: str) -> bool:
        """Return whether the tab shows an answer under way in the conversation `key`."""
        reader = self._readers.get(session)
        if reader is None or reader.lost or not reader.is_waiting:
            return False
        return reader.key == key != ""

    def stop(self, session: str) -> None:
        """Stop the answer that the tab shows."""
        if reader := self._readers.get(session):
            reader.stop()

    def leave(self, session: str) -> None:
        """Show something else in the tab; its answer goes on."""
        if reader := self._readers.pop(session, None):
            reader.leave()

    def drop(self, session: str, reader: Reader) -> None:
        """Forget a reader whose answer has not begun, unless the tab has another one already."""
        if self._readers.get(session) is reader:
            self.leave(session)

    def detach(self, session: str) -> None:
        """Stop the answer that the tab shows, and show no more of it: its conversation is changed."""
        self.stop(session)
        self.leave(session)

    def __len__(self) -> int:
        return len(self._readers)
