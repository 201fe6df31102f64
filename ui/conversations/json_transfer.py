"""Export conversations to a JSON file and import them: all branches, with the answers' settings and timings.

    {"format": "gguf-chat", "version": 1, "conversations": [{"title", "folder", "pinned", "created",
        "updated", "leaf", "messages": [{"id", "parent", "role", "text", "created", "made", "opinion",
        "note"}]}]}

Times are in seconds since 1970, durations in seconds. A message comes after its parent and has a larger id;
ids are unique only within their conversation. A conversation without a folder has no such field. An imported
file is untrusted and is checked for all of this.
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
MAX_BYTES = 64_000_000  # of a file on the user's own machine; parsing takes some 25 times as much memory
MAX_BYTES_REMOTE = 8_000_000  # of other users' files
_Text = Annotated[str, Field(max_length=1_000_000)]
_Word = Annotated[str, Field(max_length=1_000)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Seconds = Annotated[float, Field(ge=0, lt=2**40)]


class TransferError(Exception):
    """A file cannot be imported. The message gives the reason, in one line."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _check_setting(value: Any) -> Any:
    """Return a sampling setting, if its type is one that we export."""
    is_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    is_number = isinstance(value, float) and isfinite(value)
    if not (is_texts or is_number or value is None or isinstance(value, (str, bool, int))):
        _refuse("a setting is a finite number, a text, a list of texts, true, false or null")
    return value


_Setting = Annotated[Any, AfterValidator(_check_setting)]


class _GenerationInfo(_Strict):
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
    made: _GenerationInfo | None = None
    opinion: Opinion | None = None
    note: _Text = ""

    def node(self) -> Node:
        """Return the message as a Node; an answer without `made` was exported half-written: interrupted."""
        made = GenerationInfo(**self.made.model_dump()) if self.made else None
        if made is None and self.role == "assistant":
            made = INTERRUPTED
        return Node(self.id, self.parent, self.role, self.text, self.created, made, self.opinion, self.note)


class _Conversation(_Strict):
    title: _Text
    folder: _Text = ""
    pinned: bool
    created: _Seconds
    updated: _Seconds
    leaf: _Count | None
    messages: Annotated[list[_Message], Field(max_length=20_000)]

    def model_post_init(self, _: Any) -> None:
        """Check that the messages form trees: each parent comes earlier, and the roots are questions."""
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
        title, folder = title_of(self.title), title_of(self.folder)
        return Conversation("", title, self.pinned, self.created, self.updated, tree, folder)


class _File(_Strict):
    format: Literal["gguf-chat"]
    version: Literal[1]
    conversations: Annotated[list[_Conversation], Field(max_length=10_000)]


def to_json(conversations: Iterable[Conversation]) -> str:
    """Return the conversations as JSON text."""
    content = [_to_dict(conversation) for conversation in conversations]
    file = {"format": FORMAT, "version": VERSION, "conversations": content}
    return json.dumps(file, ensure_ascii=False, indent=1, allow_nan=False)


def max_bytes(owner: str) -> int:
    """Return the size limit, in bytes, of a file that an owner may import."""
    return MAX_BYTES if owner == LOCAL else MAX_BYTES_REMOTE


def from_json(data: str | bytes) -> list[Conversation]:
    """Return a file's conversations, for `Store.insert`, which assigns new ids. Raises TransferError."""
    try:
        file = _File.model_validate_json(data)
    except ValidationError as error:
        raise TransferError(_first_error(error)) from error
    return [conversation.conversation() for conversation in file.conversations]


def _to_dict(conversation: Conversation) -> dict[str, Any]:
    """Return the JSON fields of a conversation, its messages numbered from 1, parents first."""
    tree = conversation.tree
    numbers: dict[int | None, int | None] = {None: None}
    numbers |= {node_id: number for number, node_id in enumerate(sorted(tree.nodes), 1)}
    messages = []
    for node_id in sorted(tree.nodes):
        node = tree.nodes[node_id]
        messages.append(asdict(node) | {"id": numbers[node_id], "parent": numbers[node.parent]})
    head = {name: getattr(conversation, name) for name in ("title", "pinned", "created", "updated")}
    if conversation.folder:  # older versions refuse a field that they do not know
        head["folder"] = conversation.folder
    return head | {"leaf": numbers[tree.leaf], "messages": messages}


def _refuse(why: str) -> NoReturn:
    raise PydanticCustomError("tree", "{why}", {"why": why})


def _first_error(error: ValidationError) -> str:
    """Return the first error in one line, with its place in the file."""
    details = error.errors(include_url=False, include_input=False)[0]
    if details["loc"] == ("version",):
        return f"it is of another version of the format: this GGUF Chat reads version {VERSION}"
    where = ".".join(_shortened(details["loc"]))
    return " ".join(f"{where + ': ' if where else ''}{details['msg']}".split())


def _shortened(location: Sequence[int | str]) -> list[str]:
    """Return a location with its depth and names limited, since the names come from the file."""
    return [str(step)[:40] for step in location[:8]]
