"""Conversations as a JSON file and back: all branches, and how each answer was made.

    {"format": "gguf-chat", "version": 1, "conversations": [{"title", "pinned", "created", "updated", "leaf",
        "messages": [{"id", "parent", "role", "text", "created", "made", "opinion", "note"}]}]}

Times are in seconds since 1970, durations in seconds. A message comes after its parent and has the
larger id; ids mean nothing outside of their conversation. A file from elsewhere is held to all of this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from ui.conversations.database import Conversation
from ui.conversations.model import (
    INTERRUPTED,
    LOCAL,
    Author,
    GenerationInfo,
    Node,
    Opinion,
    Reason,
    Tree,
    title_of,
)

FORMAT, VERSION = "gguf-chat", 1
LARGEST = 64_000_000  # bytes that are read on one's own machine; they take some 25 times as many in memory
LARGEST_OF_OTHERS = 8_000_000
_Text = Annotated[str, Field(max_length=1_000_000)]
_Word = Annotated[str, Field(max_length=1_000)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Seconds = Annotated[float, Field(ge=0, lt=2**40)]


class TransferError(Exception):
    """A file cannot be imported; the message says what is wrong with it, in one line."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _setting(value: Any) -> Any:
    """A sampling setting as our own files have it."""
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    number = isinstance(value, float) and isfinite(value)
    if not (texts or number or value is None or isinstance(value, (str, bool, int))):
        _refuse("a setting is a finite number, a text, a list of texts, true, false or null")
    return value


_Setting = Annotated[Any, AfterValidator(_setting)]


class _Made(_Strict):
    model: _Word
    model_hash: _Word
    quantization: _Word
    system_prompt: _Text
    sampling: Annotated[dict[_Word, _Setting], Field(max_length=100)]
    reason: Reason
    prompt_tokens: _Count
    cached_tokens: _Count
    generated_tokens: _Count
    first_text_seconds: _Seconds | None
    decode_seconds: _Seconds | None
    dropped_messages: _Count = 0


class _Message(_Strict):
    id: _Count
    parent: _Count | None
    role: Author
    text: _Text
    created: _Seconds
    made: _Made | None = None
    opinion: Opinion | None = None
    note: _Text = ""

    def node(self) -> Node:
        """As the tree has it; an answer that was exported half-written counts as cut."""
        made = GenerationInfo(**self.made.model_dump()) if self.made else None
        made = made or (INTERRUPTED if self.role == "assistant" else None)
        return Node(self.id, self.parent, self.role, self.text, self.created, made, self.opinion, self.note)


class _Conversation(_Strict):
    title: _Text
    pinned: bool
    created: _Seconds
    updated: _Seconds
    leaf: _Count | None
    messages: Annotated[list[_Message], Field(max_length=20_000)]

    def model_post_init(self, _: Any) -> None:
        """Messages hang together: each on an earlier one, and the first ones are questions."""
        seen = set[int]()
        for message in self.messages:
            if message.id in seen:
                _refuse(f"two messages have the id {message.id}")
            if message.parent is not None and message.parent not in seen:
                _refuse(f"message {message.id} hangs on {message.parent}, which is no earlier message")
            if message.parent is not None and message.parent > message.id:  # the store sorts by id
                _refuse(f"message {message.id} hangs on {message.parent}, which has the larger id")
            if message.parent is None and message.role != "user":
                _refuse(f"message {message.id} is an answer to nothing")
            if message.made is not None and message.role != "assistant":
                _refuse(f"message {message.id} is a question and says how it was made")
            seen.add(message.id)
        if self.leaf is not None and self.leaf not in seen:
            _refuse(f"its leaf is {self.leaf}, which is no message of it")

    def conversation(self) -> Conversation:
        tree = Tree({message.id: message.node() for message in self.messages}, self.leaf)
        return Conversation("", title_of(self.title), self.pinned, self.created, self.updated, tree)


class _File(_Strict):
    format: Literal["gguf-chat"]
    version: Literal[1]
    conversations: Annotated[list[_Conversation], Field(max_length=10_000)]


def to_json(conversations: Iterable[Conversation]) -> str:
    """All that is known of the conversations, for `from_json` and for other programs."""
    content = [_plain(conversation) for conversation in conversations]
    whole = {"format": FORMAT, "version": VERSION, "conversations": content}
    return json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False)


def largest(owner: str) -> int:
    """The bytes of a file that is read for an owner."""
    return LARGEST if owner == LOCAL else LARGEST_OF_OTHERS


def from_json(data: str | bytes) -> list[Conversation]:
    """The conversations of a file, for `Store.insert`, which gives them new ids; raises TransferError."""
    try:
        return [read.conversation() for read in _File.model_validate_json(data).conversations]
    except ValidationError as error:
        raise TransferError(_first(error)) from error


def _plain(conversation: Conversation) -> dict[str, Any]:
    """A conversation as JSON has it, its messages numbered from 1, parents first."""
    tree = conversation.tree
    numbers: dict[int | None, int | None] = {None: None}
    numbers |= {node_id: number for number, node_id in enumerate(sorted(tree.nodes), 1)}
    messages = []
    for node_id in sorted(tree.nodes):
        node = tree.nodes[node_id]
        messages.append(asdict(node) | {"id": numbers[node_id], "parent": numbers[node.parent]})
    head = {name: getattr(conversation, name) for name in ("title", "pinned", "created", "updated")}
    return head | {"leaf": numbers[tree.leaf], "messages": messages}


def _refuse(why: str) -> NoReturn:
    raise PydanticCustomError("tree", "{why}", {"why": why})


def _first(error: ValidationError) -> str:
    """The first of a file's errors: where, and what."""
    details = error.errors(include_url=False, include_input=False)[0]
    if details["loc"] == ("version",):
        return f"it is of another version of the format: this GGUF Chat reads version {VERSION}"
    where = ".".join(map(str, _short(details["loc"])))
    return " ".join(f"{where + ': ' if where else ''}{details['msg']}".split())


def _short(place: Sequence[int | str]) -> list[str]:
    """A place in the file, whose names may be the file's own: long ones are cut."""
    return [str(step)[:40] for step in place[:8]]
