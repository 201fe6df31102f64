"""Chat data sets: read, validate, split, and tokenize by the model's chat template.

A data set is a JSONL file, one conversation per line, in the format of TRL and of most chat data on the Hub:
`{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`. Other common
formats are converted (chat_formats.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.files import read_input
from common.text import first_line, pluralize
from pipeline.data.chat_formats import Chat, ChatTurn, parse_line
from pipeline.data.chat_template import shaped
from pipeline.data.file_formats import reject_other_formats
from pipeline.errors import InputError

__all__ = [
    "IGNORED",
    "Chat",
    "ChatTurn",
    "Example",
    "collect_errors",
    "encode_chat",
    "read_chats",
    "render",
    "split_chats",
]
T = TypeVar("T")
R = TypeVar("R")
_MAX_ERRORS = 10
"""The number of wrong lines that are reported one by one."""

IGNORED = -100
"""The label of a token that is not trained on (PyTorch's cross entropy skips it)."""


@dataclass(frozen=True)
class Example:
    """A conversation as token ids, and its labels: the id where it is trained on, else IGNORED."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def answer_tokens(self) -> int:
        """The number of tokens trained on, without the first one, which nothing predicts."""
        return sum(label != IGNORED for label in self.labels[1:])


class ChatTokenizer(Protocol):
    """The methods of a transformers tokenizer that are used."""

    @property
    def all_special_ids(self) -> list[int]:
        """The special tokens' ids, such as an end of turn."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any:
        """Render a conversation to text or ids."""
        ...

    def encode(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode(self, token_ids: list[int], **options: Any) -> Any:
        """Return the text of ids."""
        ...


def read_chats(path: Path, *, require_answer: bool = True) -> list[Chat]:
    """Read a JSONL file of chats. Raises InputError with the file, the line, what is wrong and the fix.

    Without `require_answer` the chats may end with the user's turn, as in a list of questions.
    """
    try:
        reject_other_formats(path)
        raw = read_input(path).removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise InputError(f"the data set {path} does not exist: give a JSONL file of chats") from None
    except OSError as error:
        raise InputError(f"the data set {path} cannot be read: {error.strerror}") from None
    if raw.lstrip().startswith(b"["):
        raise InputError(
            f"{path}, line 1: this is not JSONL but one JSON array: write one chat a line, "
            f"as `jq -c '.[]' {path.name} > chats.jsonl` does"
        )
    if raw.lstrip().splitlines()[:1] == [b"{"]:
        raise InputError(
            f"{path}, line 1: this is not JSONL but JSON over several lines: write one chat a line, "
            f"as `jq -c . {path.name} > chats.jsonl` does"
        )
    numbered = [(number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
    chats = collect_errors(numbered, lambda item: parse_line(str(path), *item, require_answer=require_answer))
    if not chats:
        raise InputError(f'the data set {path} is empty: write one {{"messages": [...]}} a line')
    return chats


def collect_errors(items: Iterable[T], make: Callable[[T], R]) -> list[R]:
    """Return `make(item)` for each item.

    Raises the first InputError, with the next ones in its `more`, so that all can be fixed at once.
    """
    results, errors = [], []
    for item in items:
        try:
            results.append(make(item))
        except InputError as error:
            errors.append(str(error))
    if errors:
        left = (
            [f"and {pluralize(len(errors) - _MAX_ERRORS, 'more line')}"] if len(errors) > _MAX_ERRORS else []
        )
        raise InputError(errors[0], [*errors[1:_MAX_ERRORS], *left])
    return results


def split_chats(chats: Sequence[Chat], held_out: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """Split into (train, held-out), deterministically for a seed.

    `held_out` is a fraction, 0 to below 1; above 0 at least one chat is held out. Copies of a chat are on
    the same side, so that no held-out chat is trained on. Raises InputError when too few would be left.
    """
    distinct = list(dict.fromkeys(chat.turns for chat in chats))
    count = max(1, round(len(distinct) * held_out)) if held_out > 0 else 0
    if count >= len(distinct):
        raise InputError(
            f"{pluralize(len(distinct), 'different chat is', 'different chats are')} too few "
            f"to hold out {held_out:g} of them: add chats, or use --held-out 0"
        )
    random.Random(seed).shuffle(distinct)
    held = set(distinct[:count])
    return [chat for chat in chats if chat.turns not in held], [chat for chat in chats if chat.turns in held]


def render(tokenizer: ChatTokenizer, chat: Chat) -> str:
    """Render the conversation by the model's chat template."""
    return str(_template(tokenizer, chat, len(chat.turns), tokenize=False))


def encode_chat(tokenizer: ChatTokenizer, chat: Chat, max_length: int) -> Example:
    """Tokenize a chat by the model's template, with labels on the assistant's tokens only.

    Each answer is trained on from its first token through the token that ends the turn. The template must
    render the beginning of a conversation as a prefix of the whole; others raise InputError. TRL's
    `assistant_only_loss` needs `{% generation %}` marks in the template instead, which few have (SmolLM2's
    has none). Tokens after `max_length` are cut.
    """
    _reject_special_tokens(tokenizer, chat)
    ids = _ids(tokenizer, chat, len(chat.turns))
    labels = [IGNORED] * len(ids)
    for index, turn in enumerate(chat.turns):
        if turn.role == "assistant":
            start, end = _answer_span(tokenizer, chat, index, ids)
            labels[start:end] = ids[start:end]
    return Example(ids[:max_length], labels[:max_length], truncated=len(ids) > max_length)


def _answer_span(tokenizer: ChatTokenizer, chat: Chat, index: int, ids: list[int]) -> tuple[int, int]:
    """Return the range [start, end) of answer `index` in the ids of the chat, with its end token."""
    prompt = _ids(tokenizer, chat, index, add_generation_prompt=True)
    if ids[: len(prompt)] != prompt:
        raise InputError(
            f"{chat.where}: the model's chat template renders earlier turns differently "
            "once the answer is there, so the answer cannot be told apart: use single-turn chats"
        )
    special = set(tokenizer.all_special_ids)
    start = len(prompt)
    stops = (place + 1 for place in range(start, len(ids)) if ids[place] in special)
    # Without an end token the model does not learn to stop, but it learns the answer.
    return start, next(stops, len(ids))


def _ids(tokenizer: ChatTokenizer, chat: Chat, count: int, **options: Any) -> list[int]:
    return list(_template(tokenizer, chat, count, tokenize=True, return_dict=False, **options))


def _template(tokenizer: ChatTokenizer, chat: Chat, count: int, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(shaped(tokenizer, chat.messages()[:count]), **options)
    except Exception as error:  # noqa: BLE001 - an untrusted template may raise anything
        raise InputError(
            f"{chat.where}: the model's chat template refuses it ({first_line(error)}): change the chat"
        ) from None


def _reject_special_tokens(tokenizer: ChatTokenizer, chat: Chat) -> None:
    # "<|im_end|>" inside a message would end the turn early: the labels and the chat would be wrong.
    special = set(tokenizer.all_special_ids)
    for number, turn in enumerate(chat.turns, 1):
        found = [one for one in tokenizer.encode(turn.content, add_special_tokens=False) if one in special]
        if found:
            raise InputError(
                f"{chat.where}, message {number}: {tokenizer.decode(found[:1])!r} is one of the model's own "
                "special tokens, such as an end of turn: remove it, the chat template adds them"
            )
