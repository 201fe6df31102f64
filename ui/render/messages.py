"""Messages for the Chatbot and for the engine: safe Markdown, folded reasoning, rows, and back.

A model's text is untrusted. It is shown as Markdown, which can contain HTML and images, that is, requests to
other servers. `neutralize_markdown` disables both by inserting an invisible WORD JOINER into `<tag` and `![`
(an image becomes a link), and into the fence of a Mermaid diagram, whose text Gradio inserts as HTML. The
reader sees the text unchanged, and `restore_markdown` removes the joiners before the model reads it again.
Gradio's sanitizer and the page's Content-Security-Policy (ui/server/app.py) are further lines of defence.

Gradio renders everything between two math delimiters as a formula, even across code, so delimiters that
belong to no formula get a joiner too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import RequestError
from engine.types import Message
from ui.conversations.model import Node
from ui.i18n.words import ENGLISH, Translator

JOINER = "\u2060"  # WORD JOINER: no width, no line break, and no letter to an HTML parser
LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
_LINES = r"(?:(?!\n[ \t]*\n).)+?"  # up to the paragraph's end


# A formula also ends before the next opening delimiter: else each of thousands of unclosed ones would be
# searched to the end of the text.
_DISPLAY = r"(?:(?!\n[ \t]*\n|(?<!\\)\\\[).)+?"
_INLINE = r"(?:(?!\n[ \t]*\n|(?<!\\)\\\().)+?"


# Code comes first, since people copy it. An unclosed fence runs to the end.
# `$x$` follows Pandoc's rule, which spares prices: no space inside the dollars and no digit after them.
_PIECES = re.compile(
    r"(?P<code>^[ \t>]*(?P<fence>`{3,}(?!`)|~{3,}(?!~))[^\n]*\n(?:.*?^[ \t>]*(?P=fence)[`~]*[ \t]*$|.*)"
    rf"|(?<!`)(?P<tick>`{{1,8}})(?!`){_LINES}(?<!`)(?P=tick)(?!`))"
    rf"|(?P<display>\$\$(?!\$){_LINES}\$\$|(?<!\\)\\\[{_DISPLAY}\\\])"
    rf"|(?<!\\)\\\((?P<inline>{_INLINE})\\\)"
    rf"|(?<![\\$\w])\$(?P<dollars>(?![\s$])(?:(?!\n[ \t]*\n)[^$])+?(?<![\s\\]))\$(?![\w$])",
    re.MULTILINE | re.DOTALL,
)
_ACTIVE = re.compile(r"<(?=[A-Za-z/!?])|!(?=\[)")
_MERMAID = re.compile(r"```(?=mermaid)")
_DELIMITER = re.compile(r"\\(?=[()\[\]])|\$(?=\$)")
_DOLLARS = re.compile(r"\$(?=\$)")
_SLIPPED = re.compile(
    rf"<{JOINER}(?=[A-Za-z/!?])|!{JOINER}(?=\[)|\\{JOINER}(?=[()\[\]])|\${JOINER}(?=\$)|```{JOINER}(?=mermaid)"
)
_SUM = re.compile(r"\d[\d.,]*\s[^=+*/^_\\<>-]*$")  # "5 and 10", of "$5 and 10$"


def neutralize_markdown(text: str, *, dollars: bool = False) -> str:
    r"""Disable the HTML and images of a Markdown text; with `dollars`, turn `$x$` into `\(x\)`."""
    parts, end = [], 0
    for piece in _PIECES.finditer(text):
        parts += [_plain(text[end : piece.start()]), _piece(piece, dollars)]
        end = piece.end()
    return _slip(_MERMAID, "".join([*parts, _plain(text[end:])]))


def restore_markdown(text: str) -> str:
    """Undo `neutralize_markdown` without `dollars`."""
    return _SLIPPED.sub(lambda found: found.group()[:-1], text)


def _piece(piece: re.Match[str], dollars: bool) -> str:
    whole = piece.group()
    if piece["code"]:
        return _slip(_DELIMITER, whole)
    if piece["display"]:
        # Gradio pairs `$$` before all others, and a matrix has its own `\\[4pt]`.
        return whole[:2] + _slip(_DOLLARS, _slip(_ACTIVE, whole[2:-2])) + whole[-2:]
    if piece["inline"]:
        return f"\\({_plain(piece['inline'])}\\)"
    if dollars and not _SUM.match(piece["dollars"]):
        return f"\\({_plain(piece['dollars'])}\\)"
    return _plain(whole)


def _plain(text: str) -> str:
    return _slip(_DELIMITER, _slip(_ACTIVE, text))


def _slip(what: re.Pattern[str], text: str) -> str:
    return what.sub(rf"\g<0>{JOINER}", text)


# Reasoning comes first or not at all: a tag further down is part of the answer. When the chat template opens
# the tag in the prompt (Qwen, DeepSeek), the answer has only the closing tag.
_OPEN = re.compile(r"\s*(?:<(?P<tag>think|thinking|thought|reasoning)>|(?P<upper>\[THINK\]))")
_CODE_OR_TAG = re.compile(r"```.*?```|`[^`\n]*`|(?P<open><think>)|(?P<close></think>)\s*", re.DOTALL)


@dataclass(frozen=True)
class ReasoningSplit:
    """An answer's reasoning (`thoughts`; None if it has none) and text; `thinking`: it has not ended yet."""

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


Row = dict[str, Any]  # a message in the format of Gradio's Chatbot
_JUDGED = {"like": "Like", "dislike": "Dislike", None: None}


@dataclass(frozen=True)
class ChatbotRow:
    """Rows for the Chatbot, and the message id of each row."""

    rows: tuple[Row, ...]
    nodes: tuple[int, ...]

    def __add__(self, other: ChatbotRow) -> ChatbotRow:
        return ChatbotRow(self.rows + other.rows, self.nodes + other.nodes)


def chatbot_rows(path: Sequence[Node], t: Translator = ENGLISH, *, writing: bool = False) -> ChatbotRow:
    """Return the rows of some messages; `writing`: the last one has not ended."""
    rows, nodes = list[Row](), list[int]()
    for node in path:
        own = _rows(node, t, writing=writing and node is path[-1])
        rows += own
        nodes += [node.id] * len(own)
    return ChatbotRow(tuple(rows), tuple(nodes))


def opinions(path: Sequence[Node]) -> list[str | None]:
    """Return the Chatbot's `feedback_value`: one rating for each of the assistant's bubbles."""
    bubbles = [
        n for n, before in zip(path, [None, *path], strict=False) if before is None or before.role != n.role
    ]
    return [_JUDGED[node.opinion] for node in bubbles if node.role == "assistant"]


def _rows(node: Node, t: Translator, *, writing: bool) -> list[Row]:
    if node.role == "user":
        return [_row("user", neutralize_markdown(node.text))]
    spoken = split(node.text)
    if spoken.thoughts is None:
        return [_row("assistant", neutralize_markdown(spoken.answer, dollars=True))]
    thinking = spoken.thinking and writing
    rows = [
        _row(
            "assistant",
            neutralize_markdown(spoken.thoughts, dollars=True),
            _folded(spoken.thoughts, thinking, t),
        )
    ]
    if spoken.answer.strip() or not thinking:
        rows.append(_row("assistant", neutralize_markdown(spoken.answer, dollars=True)))
    return rows


def _folded(thoughts: str, thinking: bool, t: Translator) -> Row:
    """Return the metadata of folded reasoning; its status is "done" since Gradio unfolds pending ones."""
    title = t("chat.thinking") if thinking else t("chat.thoughts")
    words = t("chat.words", count=t.number(len(thoughts.split())))
    return {"title": title, "log": words, "status": "done"}


def _row(role: str, text: str, metadata: Row | None = None) -> Row:
    return {"role": role, "metadata": metadata, "content": [{"text": text, "type": "text"}], "options": None}


def text_of(content: object) -> str:
    """Return the text of a content: a string, or a list of strings and text blocks. Raises RequestError."""
    if isinstance(content, str):
        return restore_markdown(content)
    if isinstance(content, Sequence):
        return "\n".join(_block_text(block) for block in content)
    raise RequestError(f"a message's content is {content!r}: send a text")


def _block_text(block: object) -> str:
    if isinstance(block, str):
        return restore_markdown(block)
    if isinstance(block, Mapping) and isinstance(block.get("text"), str):
        return restore_markdown(block["text"])
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
