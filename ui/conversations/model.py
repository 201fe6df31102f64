"""A conversation as a tree: an edited question or a second answer is a branch, and none is lost."""

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


@dataclass(frozen=True)
class GenerationInfo:
    """How an answer was made: by which model with which settings, why it ended, and how quickly it went.

    `model_hash` is the SHA-256 of the weights, or "" where it is not known. `sampling` holds JSON values
    alone. `decode_seconds` and `first_text_seconds` are None when no text came.
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


# An answer that a crash cut, of which nothing but its text is known.
INTERRUPTED = GenerationInfo("", "", "", "", {}, "interrupted", 0, 0, 0, None, None)


@dataclass(frozen=True)
class Node:
    """One message. `created` is in seconds since 1970; an answer without `made` is still being written.

    Of a message and its parent, the parent has the smaller id.
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
    """All messages of a conversation. `leaf` is the last one shown, which may have others below it."""

    nodes: Mapping[int, Node]
    leaf: int | None

    def path(self) -> list[Node]:
        """From a root to the leaf: what the page shows and the model reads."""
        path: list[Node] = []
        at = self.leaf
        while at is not None:
            path.append(self.nodes[at])
            at = self.nodes[at].parent
        return path[::-1]

    def versions(self, node_id: int) -> list[int]:
        """The ids of a node and its siblings, oldest first."""
        return self.children[self.nodes[node_id].parent]

    def tip(self, node_id: int) -> int:
        """The youngest leaf at or below a node: where switching to a version leads."""
        return max(self.below(node_id))  # the youngest of all has nothing below it

    def below(self, node_id: int) -> set[int]:
        """The ids of a node and all that hangs on it."""
        found, waiting = set[int](), [node_id]
        while waiting:
            found.add(at := waiting.pop())
            waiting += self.children.get(at, [])
        return found

    @cached_property
    def children(self) -> Mapping[int | None, list[int]]:
        """The ids below each node, oldest first; those below None are the roots."""
        children: dict[int | None, list[int]] = defaultdict(list)
        for node_id in sorted(self.nodes):
            children[self.nodes[node_id].parent].append(node_id)
        return dict(children)


LONGEST = 60


def title_of(text: str) -> str:
    """The text in one line of at most 60 characters, cut at a word; "" when there is nothing to read."""
    text = text[: 20 * LONGEST].replace("__i18n__", "i18n")  # to Gradio, the mark of a text to translate
    line = " ".join("".join(map(_printable, text)).split())
    if len(line) <= LONGEST:
        return line
    words = re.match(rf"(.{{{LONGEST // 2},{LONGEST - 1}}})(?=\s)", line)
    return (words.group(1) if words else line[: LONGEST - 1]).rstrip(" ,;:.") + "…"


def _printable(character: str) -> str:
    """Control characters and halves of surrogate pairs become spaces."""
    return " " if unicodedata.category(character) in ("Cc", "Cs") else character


LOCAL = "local"  # the one person of this machine
VISITOR = "visitor:"  # what such an owner's name begins with
