"""Conversations as trees of messages: editing a question or regenerating an answer adds a branch."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Author = Literal["user", "assistant"]
Opinion = Literal["like", "dislike"]
Reason = Literal["stop", "length", "time", "cancelled", "error", "interrupted"]

LOCAL = "local"  # the owner name of this machine's own user
VISITOR = "visitor:"  # prefix of the owner names of anonymous visitors
MAX_TITLE = 60  # characters


@dataclass(frozen=True)
class GenerationInfo:
    """An answer's model, settings, finish reason and timings.

    `model_hash` is the SHA-256 of the weights, "" if unknown. `sampling` holds only JSON values.
    `decode_seconds` and `first_text_seconds` are None when no text was generated. The field names are those
    of the history's JSON.
    """

    model: str
    model_hash: str
    quantization: str
    system_prompt: str
    sampling: Mapping[str, Any]
    reason: Reason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    first_text_seconds: float | None
    decode_seconds: float | None
    dropped_messages: int = 0


# For an answer that a crash cut off, with only its text known.
INTERRUPTED = GenerationInfo("", "", "", "", {}, "interrupted", 0, 0, 0, None, None)
# For an answer that a user has written.
EDITED = GenerationInfo("", "", "", "", {}, "stop", 0, 0, 0, None, None)


@dataclass(frozen=True)
class Node:
    """One message. `created` is in seconds since 1970; an answer without `made` is still being written.

    A parent's id is smaller than its children's. The field names are those of an exported history.
    """

    id: int
    parent: int | None
    role: Author
    text: str
    created: float
    made: GenerationInfo | None = None
    opinion: Opinion | None = None
    note: str = ""


@dataclass(frozen=True)
class Tree:
    """All messages of a conversation. `leaf` is the last one shown; it may have children."""

    nodes: Mapping[int, Node]
    leaf: int | None

    def path(self) -> list[Node]:
        """Return the messages from a root to the leaf: those that the page shows and the model reads."""
        path: list[Node] = []
        node_id = self.leaf
        while node_id is not None:
            path.append(self.nodes[node_id])
            node_id = self.nodes[node_id].parent
        return path[::-1]

    def versions(self, node_id: int) -> list[int]:
        """Return the ids of a node and its siblings, oldest first."""
        return self.children[self.nodes[node_id].parent]

    def latest_leaf(self, node_id: int) -> int:
        """Return the newest leaf in a node's subtree: the one to show when the user switches to that node."""
        return max(self.subtree(node_id))  # the newest node of all has no children

    def subtree(self, node_id: int) -> set[int]:
        """Return the ids of a node and all its descendants."""
        found, pending = set[int](), [node_id]
        while pending:
            found.add(current := pending.pop())
            pending += self.children.get(current, [])
        return found

    @cached_property
    def children(self) -> Mapping[int | None, list[int]]:
        """The children's ids of each node, oldest first; those of None are the roots."""
        children: dict[int | None, list[int]] = defaultdict(list)
        for node_id in sorted(self.nodes):
            children[self.nodes[node_id].parent].append(node_id)
        return dict(children)


def title_of(text: str) -> str:
    """Return the text in one line of at most 60 characters, cut at a word; "" for blank text."""
    text = text[: 20 * MAX_TITLE].replace("__i18n__", "i18n")  # Gradio's mark of a text to translate
    line = " ".join("".join(map(_printable, text)).split())
    if len(line) <= MAX_TITLE:
        return line
    words = re.match(rf"(.{{{MAX_TITLE // 2},{MAX_TITLE - 1}}})(?=\s)", line)
    return (words.group(1) if words else line[: MAX_TITLE - 1]).rstrip(" ,;:.") + "…"


def _printable(character: str) -> str:
    """Return the character, or a space for a control character or half of a surrogate pair."""
    return " " if unicodedata.category(character) in ("Cc", "Cs") else character
