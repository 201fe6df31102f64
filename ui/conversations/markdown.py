"""Export conversations to Markdown: the shown branch, with the model and settings under each answer."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from ui.conversations.database import Conversation
from ui.conversations.model import GenerationInfo, Node, Tree

UNTITLED, YOU, MODEL = "New chat", "You", "Model"
ENDINGS = {
    "length": "cut at the length limit",
    "time": "cut at the time limit",
    "cancelled": "stopped",
    "error": "broken off by an error",
    "interrupted": "broken off",
}


def to_markdown(conversations: Iterable[Conversation]) -> str:
    """Return the conversations as Markdown text, each under its title."""
    return "\n\n---\n\n".join(map(_conversation, conversations)) + "\n"


def _conversation(conversation: Conversation) -> str:
    when = datetime.datetime.fromtimestamp(conversation.created, datetime.timezone.utc)
    head = f"# {conversation.title or UNTITLED}\n\n{when:%Y-%m-%d %H:%M} UTC"
    return "\n\n".join([head, *(_message(conversation.tree, node) for node in conversation.tree.path())])


def _message(tree: Tree, node: Node) -> str:
    versions = tree.versions(node.id)
    who = YOU if node.role == "user" else (node.made and node.made.model) or MODEL
    version = f" ({versions.index(node.id) + 1} of {len(versions)})" if len(versions) > 1 else ""
    parts = [f"## {who}{version}", node.text.strip()]
    if node.made is not None:
        parts.append(f"_{_details(node.made)}_")
    if node.opinion or node.note:
        parts.append(f"> {' · '.join(filter(None, [node.opinion, ' '.join(node.note.split())]))}")
    return "\n\n".join(filter(None, parts))


def _details(made: GenerationInfo) -> str:
    """Return an answer's settings and timings in one line."""
    facts = [made.quantization, f"{made.generated_tokens} tokens"]
    if made.decode_seconds:
        facts.append(f"{made.generated_tokens / made.decode_seconds:.1f} tokens/s")
    if made.first_text_seconds is not None:
        facts.append(f"first word after {made.first_text_seconds:.2f} s")
    facts += [ENDINGS.get(made.reason, ""), _settings(made.sampling)]
    facts.append(f"SHA-256 {made.model_hash[:12]}" if made.model_hash else "")
    return " · ".join(filter(None, facts))


def _settings(sampling: Mapping[str, Any]) -> str:
    given = {name: value for name, value in sampling.items() if value not in (None, "", [], ())}
    return ", ".join(f"{name} {value}" for name, value in given.items())
