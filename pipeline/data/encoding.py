"""Tokenize the rows of a data set: ids by the model's chat template, and which of them are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from jinja2 import TemplateSyntaxError

from common.text import first_line
from pipeline.data.chat_template import end_of_turn, shaped
from pipeline.data.rows import Chat, PlainText, Row
from pipeline.errors import InputError

TrainOn = Literal["last", "all"]
"""The answers of a chat that are trained on."""

IGNORED = -100
"""The label of a token that is not trained on (PyTorch's cross entropy skips it)."""


@dataclass(frozen=True)
class Example:
    """A row as token ids, and its labels: the id where it is trained on, else IGNORED."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool
    category: str | None = None

    @property
    def answer_tokens(self) -> int:
        """The number of tokens trained on, without the first one, which nothing predicts."""
        return sum(label != IGNORED for label in self.labels[1:])


class ChatTokenizer(Protocol):
    """The methods of a transformers tokenizer that are used."""

    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a text."""
        ...

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


def require_train_on(value: str) -> None:
    """Raise InputError for a value of --train-on that is none."""
    if value not in get_args(TrainOn):
        raise InputError(f"--train-on {value!r} is unknown: use {' or '.join(get_args(TrainOn))}")


def encode_row(tokenizer: Any, row: Row, max_length: int, *, train_on: TrainOn = "all") -> Example:
    """Tokenize a row: a chat as encode_chat does, a plain text with labels on all of its tokens.

    A plain text begins with the special tokens that the tokenizer adds, and ends with its end-of-text token.
    Raises InputError for a chat of which nothing is trained on, or everything, its prompt included.
    """
    if isinstance(row, PlainText):
        return _encode_text(tokenizer, row, max_length)
    whole = _encode(tokenizer, row, train_on)
    trained = sum(label != IGNORED for label in whole.labels)
    if not trained:
        raise InputError(
            f"{row.where}: nothing of it is trained on: the model's chat template leaves out the answer"
        )
    if trained == len(whole.labels):
        raise InputError(
            f"{row.where}: all of it would be trained on, the question too: the model's chat template puts "
            "nothing before the answer"
        )
    return _cut(whole, max_length)


def encode_chat(
    tokenizer: ChatTokenizer, chat: Chat, max_length: int, *, train_on: TrainOn = "all"
) -> Example:
    """Tokenize a chat by the model's template, with labels on the assistant's tokens only.

    Each answer (or the last, as `train_on` says) is trained on from its first token through the token that
    ends the turn. The template must render what is before such an answer as a prefix of the whole; others
    raise InputError. TRL's `assistant_only_loss` needs `{% generation %}` marks in the template instead,
    which few have (SmolLM2's has none). Tokens after `max_length` are cut.
    """
    return _cut(_encode(tokenizer, chat, train_on), max_length)


def render(tokenizer: ChatTokenizer, chat: Chat) -> str:
    """Render the conversation by the model's chat template."""
    return str(_template(tokenizer, chat, len(chat.turns), tokenize=False))


def special_tokens(tokenizer: ChatTokenizer, text: str) -> list[str]:
    """Return the model's special tokens in a text, such as an end of turn, each as often as it is there."""
    return _special_in(tokenizer, text, _special_ids(tokenizer))


def _special_in(tokenizer: ChatTokenizer, text: str, special: set[int]) -> list[str]:
    found = [one for one in tokenizer.encode(text, add_special_tokens=False) if one in special]
    return [str(tokenizer.decode([one])) for one in found]


def _encode(tokenizer: ChatTokenizer, chat: Chat, train_on: TrainOn) -> Example:
    special = _special_ids(tokenizer)  # once a chat: transformers makes the list anew each time
    _reject_special_tokens(tokenizer, chat, special)
    ids = _ids(tokenizer, chat, len(chat.turns))
    labels = [IGNORED] * len(ids)
    answers = [index for index, turn in enumerate(chat.turns) if turn.role == "assistant"]
    for index in answers[-1:] if train_on == "last" else answers:
        start, end = _answer_span(tokenizer, chat, index, ids, special)
        labels[start:end] = ids[start:end]
    return Example(ids, labels, truncated=False, category=chat.category)


def _encode_text(tokenizer: Any, row: PlainText, max_length: int) -> Example:
    if found := special_tokens(tokenizer, row.text):
        raise InputError(
            f"{row.where}: {found[0]!r} is one of the model's own special tokens: remove it (a text's begin "
            "and end are added; for turns of a chat, use --columns or messages)"
        )
    ids = list(tokenizer.encode(row.text, add_special_tokens=True))
    end = tokenizer.eos_token_id
    if end is not None and ids[-1:] != [end]:
        ids.append(end)
    return _cut(Example(ids, list(ids), truncated=False, category=row.category), max_length)


def _cut(whole: Example, max_length: int) -> Example:
    return Example(
        whole.input_ids[:max_length],
        whole.labels[:max_length],
        truncated=len(whole.input_ids) > max_length,
        category=whole.category,
    )


def _answer_span(
    tokenizer: ChatTokenizer, chat: Chat, index: int, ids: list[int], special: set[int]
) -> tuple[int, int]:
    """Return the range [start, end) of answer `index` in the ids of the chat, with its end token."""
    prompt = _ids(tokenizer, chat, index, add_generation_prompt=True)
    if ids[: len(prompt)] != prompt:
        last = index == len(chat.turns) - 1
        raise InputError(
            f"{chat.where}: the model's chat template renders earlier turns differently "
            "once the answer is there, so the answer cannot be told apart: use single-turn chats"
            + ("" if last else ", or --train-on last")
        )
    start = len(prompt)
    limit = _end_of_rendered(tokenizer, chat, index, ids)
    end = next((place + 1 for place in range(start, limit) if ids[place] in special), None)
    if end is not None:
        return start, end
    # Without an end token the model does not learn to stop, but it learns the answer. GLM's answers end with
    # the token that begins the next turn, <|user|>.
    begins_next = limit < len(ids) and ids[limit] in special and ids[limit] != tokenizer.bos_token_id
    return start, limit + begins_next


def _end_of_rendered(tokenizer: ChatTokenizer, chat: Chat, index: int, ids: list[int]) -> int:
    """Return how many ids render the turns through `index`: what comes after is the next question's."""
    if index == len(chat.turns) - 1:
        return len(ids)
    until = _ids(tokenizer, chat, index + 1)
    pairs = enumerate(zip(ids, until, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ids), len(until)))


def _special_ids(tokenizer: ChatTokenizer) -> set[int]:
    return {*tokenizer.all_special_ids, *end_of_turn(tokenizer)}


def _ids(tokenizer: ChatTokenizer, chat: Chat, count: int, **options: Any) -> list[int]:
    return list(_template(tokenizer, chat, count, tokenize=True, return_dict=False, **options))


def _template(tokenizer: ChatTokenizer, chat: Chat, count: int, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(shaped(tokenizer, chat.messages()[:count]), **options)
    except TemplateSyntaxError as error:
        raise InputError(
            f"the model's chat template is broken (line {error.lineno}: {first_line(error)}): "
            "give one with --template FILE|NAME"
        ) from None
    except Exception as error:  # noqa: BLE001 - an untrusted template may raise anything
        raise InputError(
            f"{chat.where}: the model's chat template refuses it ({first_line(error)}): change the chat"
        ) from None


def _reject_special_tokens(tokenizer: ChatTokenizer, chat: Chat, special: set[int]) -> None:
    # "<|im_end|>" inside a message would end the turn early: the labels and the chat would be wrong.
    for number, turn in enumerate(chat.turns, 1):
        if found := _special_in(tokenizer, turn.content, special):
            raise InputError(
                f"{chat.where}, message {number}: {found[0]!r} is one of the model's own "
                "special tokens, such as an end of turn: remove it, the chat template adds them"
            )
