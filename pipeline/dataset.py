"""Chat data sets: read, validate, split, render by the model's own template.

A data set is a JSONL file, one conversation a line, in the format of TRL and of most chat data on the Hub:
`{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from pipeline.errors import InputError

Role = Literal["system", "user", "assistant"]
IGNORED = -100
"""The label of a token that is not trained on (PyTorch's cross entropy skips it)."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Chat:
    """One conversation: an optional system turn, then user and assistant in turn. `line` counts from 1."""

    turns: tuple[Turn, ...]
    line: int

    def messages(self) -> list[dict[str, str]]:
        """The conversation as chat templates take it."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


@dataclass(frozen=True)
class Example:
    """A conversation as token ids, with as many labels: the id where it is trained on, else IGNORED."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def answer_tokens(self) -> int:
        """How many tokens are trained on; the first of all is not, for nothing stands before it."""
        return sum(label != IGNORED for label in self.labels[1:])


class ChatTokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that text alone never gives, such as an end of turn."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render a conversation to text or ids."""
        ...

    def encode(self, text: str, **options: Any) -> list[int]:
        """The ids of a text."""
        ...


def read_chats(path: Path, *, answered: bool = True) -> list[Chat]:
    """Read a JSONL file of chats; raises InputError that names the file, the line, what is wrong and the fix.

    With `answered=False` the chats may end with the user's turn, as a list of questions does.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"the data set {path} does not exist: give a JSONL file of chats") from None
    except OSError as error:
        raise InputError(f"the data set {path} cannot be read: {error.strerror}") from None
    lines = raw.removeprefix(b"\xef\xbb\xbf").splitlines()
    chats = [_parse(path, number, line, answered) for number, line in enumerate(lines, 1) if line.strip()]
    if not chats:
        raise InputError(f'the data set {path} is empty: write one {{"messages": [...]}} a line')
    return chats


def split_chats(chats: Sequence[Chat], held_out: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """Split into (train, held-out), the same way for the same seed.

    `held_out` is a fraction, 0 to below 1; above 0 it holds out at least one chat. Copies of one chat
    stay on one side, so that nothing held out was seen. Raises InputError when too few would be left.
    """
    distinct = list(dict.fromkeys(chat.turns for chat in chats))
    count = max(1, round(len(distinct) * held_out)) if held_out > 0 else 0
    if count >= len(distinct):
        raise InputError(
            f"{len(distinct)} different chats are too few to hold out {held_out:g} of them: "
            "add chats, or use --held-out 0"
        )
    random.Random(seed).shuffle(distinct)
    held = set(distinct[:count])
    return [chat for chat in chats if chat.turns not in held], [chat for chat in chats if chat.turns in held]


def render(tokenizer: ChatTokenizer, chat: Chat) -> str:
    """The conversation as the text that the model reads, by its own chat template."""
    return str(_template(tokenizer, chat, len(chat.turns), tokenize=False))


def encode_chat(tokenizer: ChatTokenizer, chat: Chat, max_length: int) -> Example:
    """Tokenize a chat by the model's own template, with labels on the assistant's words alone.

    Each answer is trained on from its first word through the token that ends the turn. This works
    with any template that renders the beginning of a conversation as the beginning of the whole; others
    raise InputError. TRL's `assistant_only_loss` would need `{% generation %}` marks in the template instead,
    which few have (SmolLM2's does not). What is longer than `max_length` tokens is cut at its end.
    """
    _refuse_special_tokens(tokenizer, chat)
    ids = _ids(tokenizer, chat, len(chat.turns))
    labels = [IGNORED] * len(ids)
    for index, turn in enumerate(chat.turns):
        if turn.role == "assistant":
            start, end = _answer_span(tokenizer, chat, index, ids)
            labels[start:end] = ids[start:end]
    return Example(ids[:max_length], labels[:max_length], truncated=len(ids) > max_length)


def _answer_span(tokenizer: ChatTokenizer, chat: Chat, index: int, ids: list[int]) -> tuple[int, int]:
    """Where answer `index` lies in the ids of the whole chat: [start, end), its end token included."""
    prompt = _ids(tokenizer, chat, index, add_generation_prompt=True)
    if ids[: len(prompt)] != prompt:
        raise InputError(
            f"line {chat.line} of the data set: the model's chat template renders earlier turns differently "
            "once the answer is there, so the answer cannot be told apart: use single-turn chats"
        )
    special = set(tokenizer.all_special_ids)
    start = len(prompt)
    stops = (place + 1 for place in range(start, len(ids)) if ids[place] in special)
    # Without any end token the template cannot teach the model to stop, but the words can still be learned.
    return start, next(stops, len(ids))


def _ids(tokenizer: ChatTokenizer, chat: Chat, count: int, **options: Any) -> list[int]:
    return list(_template(tokenizer, chat, count, tokenize=True, return_dict=False, **options))


def _template(tokenizer: ChatTokenizer, chat: Chat, count: int, **options: Any) -> Any:
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(chat.messages()[:count], **options)
    except TemplateError as error:
        raise InputError(
            f"line {chat.line} of the data set: the model's chat template refuses it ({error}): "
            "change the chat"
        ) from None


def _refuse_special_tokens(tokenizer: ChatTokenizer, chat: Chat) -> None:
    # "<|im_end|>" inside a message would end the turn in the middle: the labels and the chat would be wrong.
    special = set(tokenizer.all_special_ids)
    for number, turn in enumerate(chat.turns, 1):
        if special.intersection(tokenizer.encode(turn.content, add_special_tokens=False)):
            raise InputError(
                f"line {chat.line} of the data set: message {number} contains one of the model's own special "
                "tokens, such as an end of turn: remove it, the chat template adds them"
            )


def _parse(path: Path, number: int, line: bytes, answered: bool) -> Chat:
    where = f"{path}, line {number}"
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{where}: this is not UTF-8 text: save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'{where}: this is not JSON ({error}): write one {{"messages": [...]}} a line'
        ) from None
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f'{where}: there is no list "messages": write {{"messages": [{{"role": ..., ...}}]}}'
        )
    turns = tuple(_turn(f"{where}, message {place}", message) for place, message in enumerate(messages, 1))
    for problem in _order_problems(turns, answered):
        raise InputError(f"{where}{problem}")
    return Chat(turns, number)


def _turn(where: str, message: object) -> Turn:
    if not isinstance(message, dict):
        raise InputError(f'{where}: it is no object: write {{"role": "user", "content": "..."}}')
    content = message.get("content")
    role: Any = message.get("role")
    if role not in get_args(Role):
        raise InputError(f"{where}: the role {role!r} is unknown: use {', '.join(get_args(Role))}")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: the {role}'s content is empty or no text: write it, or remove the chat")
    others = sorted(str(key) for key in message.keys() - {"role", "content"})
    if others:
        raise InputError(f"{where}: {others[0]!r} would be lost in training: only role and content are used")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: it holds half a character (a lone \\ud8.. escape): write it out"
        ) from None
    return Turn(role, content)


def _order_problems(turns: tuple[Turn, ...], answered: bool) -> Iterator[str]:
    first = 1 if turns[0].role == "system" else 0
    for place, turn in enumerate(turns[first:], first + 1):
        wanted = "user" if (place - first) % 2 else "assistant"
        if turn.role != wanted:
            yield (
                f", message {place}: the role is {turn.role!r} where {wanted!r} is due: "
                "after an optional system message, user and assistant take turns"
            )
    roles = [turn.role for turn in turns]
    if answered and "assistant" not in roles:
        yield ": there is no assistant message, so nothing to learn: add the answer"
    if answered and roles[-1] != "assistant":
        yield ": the last message is not the assistant's: add the answer, or remove the question"
    if "user" not in roles:
        yield ": there is no user message: add the question"
