"""Answers under way by conversation: they go on without a page, and any number of pages can read them.

A page reads an answer (`RunningAnswer.reading`) as long as it shows it. An answer ends by itself, when it is
cancelled, when its conversation is deleted, and when no page has read it for `detached_seconds`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from engine.config import SamplingParams
from engine.types import Message
from ui.conversations.model import Node
from ui.conversations.store import NotFound, Store, StoreError
from ui.generation.sessions import Stoppable
from ui.generation.streaming import Progress

WATCH_SECONDS = 1.0  # between looks for a deleted conversation and for readers
FIRST_READER_SECONDS = 10.0  # a page that has asked may take so long to begin to read


@dataclass(frozen=True)
class Task:
    """An answer to generate: to the messages of `path`, or a continuation, if the last one is an answer."""

    owner: str
    key: str
    path: tuple[Node, ...]
    system_prompt: str
    sampling: SamplingParams
    model: str | None = None

    @property
    def partial(self) -> Node | None:
        """The answer to continue."""
        return self.path[-1] if self.path[-1].role == "assistant" else None

    def messages(self) -> list[Message]:
        """Return the messages for the engine.

        Spaces at the end of a partial answer are dropped: they belong to the next word's token.
        """
        before = self.path[:-1] if self.partial else self.path
        messages: list[Message] = [
            {"role": node.role, "content": node.text} for node in before if node.text.strip()
        ]
        if self.partial:
            messages.append({"role": "assistant", "content": self.partial.text.rstrip(" ")})
        system: list[Message] = [{"role": "system", "content": self.system_prompt.strip()}]
        return system + messages if self.system_prompt.strip() else messages


class RunningAnswer:
    """An answer to `task`: `node` and `progress` are the answer so far, `done` is true after its end.

    `failure` is the error of an answer that could not be given. Used only from the event loop.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.node = task, task.path[-1]
        self.progress = Progress()
        self.failure: Exception | None = None
        self.stopped = self.done = False
        self._streams: list[Stoppable] = []
        self._readers: list[asyncio.Event] = []
        self._unread_since, self._grace = time.monotonic(), FIRST_READER_SECONDS

    def cancel(self) -> None:
        """Stop the answer; it ends soon after, and keeps its text. Returns at once."""
        self.stopped = True
        for stream in self._streams:
            stream.cancel()

    @contextmanager
    def streaming(self, stream: Stoppable) -> Iterator[None]:
        """Let `cancel` stop this stream for the duration of the `with` block."""
        self._streams.append(stream)
        if self.stopped:
            stream.cancel()
        try:
            yield
        finally:
            self._streams.remove(stream)

    @contextmanager
    def reading(self, changed: asyncio.Event) -> Iterator[None]:
        """Count a reader, whose `changed` is set at each change; at once if there is something to show."""
        if self.done or self.progress.text or self.progress.prompt or self.progress.position:
            changed.set()
        self._readers.append(changed)
        try:
            yield
        finally:
            self._readers.remove(changed)
            self.keep()

    def keep(self) -> None:
        """Note that a page has just read the answer."""
        self._unread_since, self._grace = time.monotonic(), 0.0

    def is_unread(self, seconds: float) -> bool:
        """Return whether no page has read the answer for so long."""
        unread = time.monotonic() - self._unread_since
        return not self._readers and unread > max(seconds, self._grace)

    def update(self, node: Node, progress: Progress) -> None:
        """Set the answer so far, and wake the readers."""
        self.node, self.progress = node, progress
        self.notify()

    def notify(self) -> None:
        """Wake the readers."""
        for changed in self._readers:
            changed.set()


class RunningAnswers:
    """All answers under way. `start` and `at` are for the event loop, the others for any thread."""

    def __init__(self, store: Store, detached_seconds: float = math.inf) -> None:
        """An answer that no page has read for `detached_seconds` is stopped."""
        self._store, self._detached_seconds = store, detached_seconds
        self._tasks: dict[RunningAnswer, asyncio.Task[None]] = {}

    def start(self, answer: RunningAnswer, writing: Coroutine[Any, Any, None]) -> None:
        """Run `writing`, which writes the answer, until it ends, and then wake its readers."""
        self._tasks[answer] = asyncio.get_running_loop().create_task(self._run(answer, writing))

    def at(self, owner: str, key: str, last: Node | None) -> RunningAnswer | None:
        """Return the answer under way that belongs to a conversation down to `last`: the latest one.

        `last` is the answer, or the message that it answers.
        """
        if last is None:
            return None
        mine = [answer for answer in self._tasks if (answer.task.owner, answer.task.key) == (owner, key)]
        # An answer without text may be in the store already, and not yet here.
        asked = {last.id} if last.text else {last.id, last.parent}
        found = [answer for answer in mine if answer.node.id == last.id]
        found = found or [answer for answer in mine if answer.task.path[-1].id in asked]
        return found[-1] if found else None

    def under_way(self, owner: str) -> frozenset[str]:
        """Return the ids of the owner's conversations in which an answer is under way."""
        return frozenset(answer.task.key for answer in list(self._tasks) if answer.task.owner == owner)

    def look(self, owner: str) -> frozenset[str]:
        """Return the same for an open page of the owner, which counts as reading: no answer is unread."""
        for answer in list(self._tasks):
            if answer.task.owner == owner:
                answer.keep()
        return self.under_way(owner)

    def is_writing(self, node: int) -> bool:
        """Return whether a message is an answer under way, or about to be answered or continued."""
        return any(answer.node.id == node for answer in list(self._tasks))

    async def _run(self, answer: RunningAnswer, writing: Coroutine[Any, Any, None]) -> None:
        watching = asyncio.create_task(self._watch(answer))
        try:
            await writing
        finally:
            watching.cancel()
            del self._tasks[answer]
            answer.done = True
            answer.notify()

    async def _watch(self, answer: RunningAnswer) -> None:
        """Stop an answer that has lost its readers or its conversation."""
        while not answer.is_unread(self._detached_seconds) and await self._exists(answer.task):
            await asyncio.sleep(WATCH_SECONDS)
        answer.cancel()

    async def _exists(self, task: Task) -> bool:
        with suppress(StoreError):  # a locked history says nothing
            try:
                await self._store.off_loop(self._store.summary, task.owner, task.key)
            except NotFound:
                return False
        return True
