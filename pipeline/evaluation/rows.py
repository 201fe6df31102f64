"""The held-out rows as token ids with labels, and the questions that the models are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import read_input
from common.text import first_line, pluralize
from pipeline.data.chat_template import reject_lost_messages, shaped
from pipeline.data.dataset import (
    Chat,
    ChatTurn,
    Example,
    PlainText,
    Row,
    TrainOn,
    collect_errors,
    encode_row,
    read_chats,
)
from pipeline.errors import InputError
from pipeline.evaluation.config import EvaluateConfig

_QUESTIONS = "give a JSONL file of chats, a .txt of one question a line, or a number of held-out rows"


@dataclass(frozen=True)
class Question:
    """A prompt's ids, its last message for display, and the wanted answer if one is known."""

    ids: tuple[int, ...]
    text: str
    wanted: str | None


@dataclass(frozen=True)
class HeldOut:
    """The rows that are measured; `cut` of them are too long, `left_out` others have nothing to measure."""

    examples: tuple[Example, ...]
    cut: int
    left_out: int

    def notes(self) -> list[str]:
        """Say which rows are not measured whole."""
        found = []
        if self.cut:
            found.append(f"{pluralize(self.cut, 'row is', 'rows are')} cut at --max-length tokens")
        if self.left_out:
            left = pluralize(self.left_out, "row is", "rows are")
            found.append(f"{left} left out, as no answer begins within --max-length tokens")
        return found


def encode_rows(tokenizer: Any, rows: Sequence[Row], max_length: int, train_on: TrainOn) -> HeldOut:
    """Encode the rows as in training. Raises InputError if none has a trained token within `max_length`."""
    reject_lost_messages(tokenizer, [row for row in rows if isinstance(row, Chat)])
    encoded = collect_errors(rows, lambda row: encode_row(tokenizer, row, max_length, train_on=train_on))
    examples = tuple(example for example in encoded if example.answer_tokens)
    if not examples:
        raise InputError(
            f"--max-length {max_length} cuts off every answer in {rows[0].file}: give more tokens"
        )
    return HeldOut(examples, sum(example.truncated for example in examples), len(encoded) - len(examples))


def read_questions(config: EvaluateConfig) -> list[Chat] | None:
    """Read the file of questions; None where a number of held-out rows is asked. Raises InputError."""
    path = config.questions
    if not isinstance(path, Path):
        return None
    if path.suffix.lower() != ".txt":
        if not path.exists():
            raise InputError(f"--questions {path} does not exist: {_QUESTIONS}")
        return read_chats(path, require_answer=False)
    try:
        lines = read_input(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"--questions {path} does not exist: {_QUESTIONS}") from None
    except OSError as error:
        raise InputError(f"--questions {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--questions {path} is no text in UTF-8: save it as UTF-8") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(f"--questions {path} is empty: write one question a line")
    return [Chat((ChatTurn("user", line),), number, str(path)) for number, line in numbered]


def make_questions(
    tokenizer: Any, rows: Sequence[Row], asked: Sequence[Chat] | None, count: int
) -> list[Question]:
    """Return the prompts of the questions `asked`, or of the first `count` chats of the rows, None twice.

    Raises InputError for one that the template refuses.
    """
    if asked is None:
        distinct = {row.content: row for row in reversed(rows) if isinstance(row, Chat)}
        asked = list(reversed(distinct.values()))[:count]
    return collect_errors(asked, lambda chat: _question(tokenizer, chat))


def longest(examples: Sequence[Example], questions: Sequence[Question], max_tokens: int) -> int:
    """Return the number of tokens that a model's context must hold."""
    rows = (len(example.input_ids) for example in examples)
    return max([*rows, *(len(question.ids) + max_tokens for question in questions)])


def plain_texts(rows: Sequence[Row]) -> bool:
    """Return whether there is no chat among the rows, so that they ask nothing."""
    return all(isinstance(row, PlainText) for row in rows)


def _question(tokenizer: Any, chat: Chat) -> Question:
    """Return the chat up to its last question, and the answer to that if it is there."""
    last = chat.turns[-1]
    end = len(chat.turns) - (last.role == "assistant")
    messages = shaped(tokenizer, chat.messages()[:end])
    try:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # noqa: BLE001 - an untrusted template may raise anything
        raise InputError(
            f"{chat.where}: the model's chat template refuses it ({first_line(error)}): change the question"
        ) from None
    wanted = last.content if last.role == "assistant" else None
    return Question(tuple(ids), chat.turns[end - 1].content if end else "", wanted)
