"""Between what a Gradio Chatbot holds and what the engine reads; and what makes untrusted text harmless.

A Chatbot's history is a list of `{"role", "content", ...}` whose content is always a list of blocks
(`[{"type": "text", "text": ...}]`); an API caller sends plain strings. The engine takes plain strings.

The text of a model is untrusted: it is shown as Markdown, and Markdown can carry HTML and images, that is,
requests to other people's servers. `defuse` takes both away by slipping an invisible WORD JOINER into `<tag`
and `![` (which leaves a link, for who wants to see the image), and into the fence of a Mermaid diagram, whose
text Gradio makes HTML of as it is. The reader sees exactly what the model wrote, and `restore` gives the
model back its own words.
Gradio's sanitizer and the page's Content-Security-Policy (ui/server.py) stand behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from engine.errors import RequestError
from engine.request import Message, Role

JOINER = "\u2060"  # WORD JOINER: no width, no line break, and no letter to an HTML parser

# Code is shown as it is by Markdown, and people copy it: it is left alone. An unclosed fence runs to the end.
_CODE = re.compile(
    r"^[ \t>]*(?P<fence>`{3,}|~{3,})[^\n]*\n(?:.*?^[ \t>]*(?P=fence)[`~]*[ \t]*$|.*)"
    r"|(?<!`)(?P<tick>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=tick)(?!`)",
    re.MULTILINE | re.DOTALL,
)
_ACTIVE = re.compile(r"<(?=[A-Za-z/!?])|!(?=\[)")
_MERMAID = re.compile(r"```(?=mermaid)")
_DEFUSED = re.compile(rf"<{JOINER}(?=[A-Za-z/!?])|!{JOINER}(?=\[)|```{JOINER}(?=mermaid)")


class Bubble(TypedDict):
    """One message as it is given to the Chatbot. Blocks, as it strips the indentation of plain strings."""

    role: Role
    content: list[dict[str, str]]


def defuse(text: str) -> str:
    """The same text to a reader, without HTML and images to a browser."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_ACTIVE.sub(rf"\g<0>{JOINER}", text[end : code.start()]), code.group()]
        end = code.end()
    harmless = "".join([*parts, _ACTIVE.sub(rf"\g<0>{JOINER}", text[end:])])
    return _MERMAID.sub(rf"\g<0>{JOINER}", harmless)


def restore(text: str) -> str:
    """Undo `defuse`."""
    return _DEFUSED.sub(lambda found: found.group()[:-1], text)


def bubble(role: Role, text: str) -> Bubble:
    """A message for the Chatbot."""
    return {"role": role, "content": [{"type": "text", "text": defuse(text)}]}


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
