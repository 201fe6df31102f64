"""Between what a Gradio Chatbot holds and what the engine reads.

A Chatbot's history is a list of `{"role", "content", ...}` whose content is always a list of blocks
(`[{"type": "text", "text": ...}]`); an API caller sends plain strings. The engine takes plain strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import RequestError
from engine.request import Message
from ui.markup import restore


def text_of(content: object) -> str:
    """The text of a message's content: a string, or a list of strings and text blocks."""
    if isinstance(content, str):
        return restore(content)
    if isinstance(content, Sequence):
        return "\n".join(_block_text(block) for block in content)
    raise RequestError(f"a message's content is {content!r}: send a text")


def _block_text(block: object) -> str:
    if isinstance(block, str):
        return restore(block)
    if isinstance(block, Mapping) and isinstance(block.get("text"), str):
        return restore(block["text"])
    raise RequestError(f"a message's content holds {block!r}: this model reads text alone")


def to_message(item: Mapping[str, Any]) -> Message:
    """One message of a history; a RequestError names what is wrong with it."""
    role, content = item.get("role"), item.get("content")
    if role not in ("system", "user", "assistant"):
        raise RequestError(f"a message's role is {role!r}: use system, user or assistant")
    return {"role": role, "content": text_of(content)}


def conversation(history: Sequence[Mapping[str, Any]], system_prompt: str = "") -> list[Message]:
    """What the engine reads: the system prompt, when there is one, and the history without empty messages."""
    messages = [message for message in map(to_message, history) if message["content"].strip()]
    if system_prompt.strip():
        rest = [message for message in messages if message["role"] != "system"]
        return [{"role": "system", "content": system_prompt.strip()}, *rest]
    return messages
