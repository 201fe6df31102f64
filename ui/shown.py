"""What the Chatbot shows of a conversation: a row for each message, and one more for an answer's thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ui.markup import defuse
from ui.texts import ENGLISH, Words
from ui.thoughts import split
from ui.tree import Node

Row = dict[str, Any]  # a message as the browser's Chatbot takes it
_JUDGED = {"like": "Like", "dislike": "Dislike", None: None}


@dataclass(frozen=True)
class Shown:
    """Rows for the Chatbot, and of each row the id of its message."""

    rows: tuple[Row, ...]
    nodes: tuple[int, ...]

    def __add__(self, other: Shown) -> Shown:
        return Shown(self.rows + other.rows, self.nodes + other.nodes)


def shown(path: Sequence[Node], say: Words = ENGLISH, *, writing: bool = False) -> Shown:
    """The rows of some messages; `writing`: the last one has not ended."""
    rows, nodes = list[Row](), list[int]()
    for node in path:
        own = _rows(node, say, writing=writing and node is path[-1])
        rows += own
        nodes += [node.id] * len(own)
    return Shown(tuple(rows), tuple(nodes))


def opinions(path: Sequence[Node]) -> list[str | None]:
    """The Chatbot's `feedback_value`: one for each of the assistant's bubbles."""
    bubbles = [
        n for n, before in zip(path, [None, *path], strict=False) if before is None or before.role != n.role
    ]
    return [_JUDGED[node.opinion] for node in bubbles if node.role == "assistant"]


def _rows(node: Node, say: Words, *, writing: bool) -> list[Row]:
    if node.role == "user":
        return [_row("user", defuse(node.text))]
    spoken = split(node.text)
    if spoken.thoughts is None:
        return [_row("assistant", defuse(spoken.answer, dollars=True))]
    thinking = spoken.thinking and writing
    rows = [_row("assistant", defuse(spoken.thoughts, dollars=True), _folded(spoken.thoughts, thinking, say))]
    if spoken.answer.strip() or not thinking:
        rows.append(_row("assistant", defuse(spoken.answer, dollars=True)))
    return rows


def _folded(thoughts: str, thinking: bool, say: Words) -> Row:
    """`done` from the start: Gradio opens what is pending, and thoughts are to be folded."""
    title = say("chat.thinking") if thinking else say("chat.thoughts")
    words = say("chat.words", count=say.number(len(thoughts.split())))
    return {"title": title, "log": words, "status": "done"}


def _row(role: str, text: str, metadata: Row | None = None) -> Row:
    return {"role": role, "metadata": metadata, "content": [{"text": text, "type": "text"}], "options": None}
