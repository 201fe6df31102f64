"""A message's text: an answer's reasoning and what follows it, and the messages of clients for the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import RequestError
from engine.types import Message

# Reasoning comes first or not at all: a tag further down is part of the answer. When the chat template opens
# the tag in the prompt (Qwen, DeepSeek), the answer has only the closing tag.
_OPEN = re.compile(r"\s*(?:<(?P<tag>think|thinking|thought|reasoning)>|(?P<upper>\[THINK\]))")
_CODE_OR_TAG = re.compile(r"```.*?```|`[^`\n]*`|(?P<open><think>)|(?P<close></think>)\s*", re.DOTALL)


@dataclass(frozen=True)
class ReasoningSplit:
    """An answer's reasoning (`thoughts`, or None) and text; `thinking`: the reasoning has not ended."""

    thoughts: str | None
    answer: str
    thinking: bool = False


def split(text: str) -> ReasoningSplit:
    """Split an answer into its reasoning and its text."""
    opened = _OPEN.match(text)
    if opened is None:
        return _closed_alone(text)
    close = "[/THINK]" if opened["upper"] else f"</{opened['tag']}>"
    thoughts, ended, answer = text[opened.end() :].partition(close)
    return ReasoningSplit(thoughts.strip(), answer.lstrip(), thinking=not ended)


def _closed_alone(text: str) -> ReasoningSplit:
    """Split at a closing tag without an opening one, outside of code."""
    if "</think>" in text:  # checked a dozen times a second
        for found in _CODE_OR_TAG.finditer(text):
            if found["open"]:
                break
            if found["close"]:
                return ReasoningSplit(text[: found.start()].strip(), text[found.end() :])
    return ReasoningSplit(None, text)


def text_of(content: object) -> str:
    """Return the text of a content: a string, or a list of strings and text blocks. Raises RequestError."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "\n".join(_block_text(block) for block in content)
    raise RequestError(f"a message's content is {content!r}: send a text")


def _block_text(block: object) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Mapping) and isinstance(block.get("text"), str):
        return str(block["text"])
    raise RequestError(f"a message's content holds {block!r}: this model reads text alone")


def to_message(item: Mapping[str, Any]) -> Message:
    """Convert a message of a history. Raises RequestError."""
    role, content = item.get("role"), item.get("content")
    if role not in ("system", "user", "assistant"):
        raise RequestError(f"a message's role is {role!r}: use system, user or assistant")
    return {"role": role, "content": text_of(content)}


def conversation(history: Sequence[Mapping[str, Any]], system_prompt: str = "") -> list[Message]:
    """Return the messages for the engine: the system prompt, if any, and the non-empty ones of the history.

    Raises RequestError.
    """
    messages = [message for message in map(to_message, history) if message["content"].strip()]
    if system_prompt.strip():
        rest = [message for message in messages if message["role"] != "system"]
        return [{"role": "system", "content": system_prompt.strip()}, *rest]
    return messages
