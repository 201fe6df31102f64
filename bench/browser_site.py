"""A site to measure in a browser: its address, the chats in its list, and how its answers were made."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.systems import Setup
from bench.workload import story
from pipeline.errors import PipelineError
from ui.conversations.model import EDITED, LOCAL, GenerationInfo, Node, Tree
from ui.conversations.store import Conversation, Store

_SECONDS = 10.0  # until an ended answer is in the history


@dataclass(frozen=True)
class Site:
    """A running app, on this machine, and the history that it writes."""

    url: str
    store: Store

    def made(self, count: int = 1) -> list[GenerationInfo]:
        """Return how the last answers of the `count` latest chats were made. Raises PipelineError."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            latest = sorted(self.store.list(LOCAL), key=lambda one: one.updated)[-count:]
            paths = [self.store.load(LOCAL, one.id).tree.path() for one in latest]
            infos = [path[-1].made for path in paths if path]
            found = [info for info in infos if info is not None]
            if len(found) == count:
                return found
            time.sleep(0.05)
        raise PipelineError("an answer ended on the page and is not in the history")


@contextmanager
def serve_site(setup: Setup, tokens: int, lengths: Sequence[int]) -> Iterator[Site]:
    """Serve a model, with a chat of each length; every answer has `tokens`. Raises PipelineError."""
    with tempfile.TemporaryDirectory() as folder:
        history = Path(folder) / "history.db"
        store = Store(history)
        add_chats(store, lengths)
        sizes = map(str, (setup.slots, setup.context, setup.threads))
        program = [sys.executable, "-m", "bench.web_page_app"]
        command = [*program, str(setup.model), *sizes, str(history), str(tokens)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            if not line.startswith("http"):
                raise PipelineError(f"the page does not start: {line or 'it said nothing'}")
            yield Site(line, store)
        finally:
            process.communicate()  # closes its standard input, which ends it
            store.close()


def title(length: int) -> str:
    """Return the title of the chat of so many messages."""
    return f"A chat of {length} messages"


def last_words(length: int) -> str:
    """Return what only the last message of that chat says."""
    return f"Here ends the chat of {length}."


def add_chats(store: Store, lengths: Sequence[int]) -> None:
    """Add a chat of each length, of questions and answers in turn."""
    store.insert(LOCAL, [_chat(length) for length in lengths])


def _chat(length: int) -> Conversation:
    now = time.time()
    nodes = {}
    for number in range(1, length + 1):
        asks = number % 2 == 1
        text = story(f"message {number}", 1 if asks else 3)
        if number == length:
            text += f"\n\n{last_words(length)}"
        parent = number - 1 or None
        nodes[number] = Node(
            number, parent, "user" if asks else "assistant", text, now, None if asks else EDITED
        )
    return Conversation("", title(length), False, now, now, Tree(nodes, length))
