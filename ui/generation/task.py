"""What an answer is generated from."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import SamplingParams
from engine.types import Message
from ui.conversations.model import Node


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
