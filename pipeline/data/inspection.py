"""What is in a data set: forms, roles, lengths by a model's template, copies, special tokens, categories."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from typing import Any

from pipeline.data.encoding import IGNORED, Example, TrainOn, encode_row
from pipeline.data.reader import DataSet
from pipeline.data.rows import Chat, Row
from pipeline.errors import InputError

_UNCUT = 2**62
_EXAMPLES = 3
_MARKS = re.compile(
    r"<[|｜][^<>\s|｜]{1,40}[|｜]>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
)
"""Special tokens of well-known models."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of rows: the median, what 95 % do not exceed, the longest and its place, and their sum."""

    median: float
    percentile_95: int
    longest: int
    longest_at: str
    total: int


@dataclass(frozen=True)
class Tokens:
    """A data set in a model's tokens, by its template.

    `trained` is the share of the tokens that are trained on. `cut` rows are longer than `max_length`; in
    `dropped` ones no answer begins within it. `refused` says why training would refuse `refused_rows`.
    """

    lengths: Lengths | None
    trained: float
    max_length: int
    cut: int
    dropped: int
    refused: list[str]
    refused_rows: int


@dataclass(frozen=True)
class Summary:
    """What is in one data set. `marks` counts special tokens of well-known models in the texts.

    A short answer is one word of at most 15 characters; `turns` has the chats by their number of answers.
    """

    name: str
    kind: str
    forms: dict[str, int]
    notes: list[str]
    rows: int
    roles: dict[str, int]
    turns: dict[int, int]
    short_answers: int
    copies: int
    marks: dict[str, int]
    categories: dict[str, int]
    characters: Lengths
    examples: dict[str, list[str]] = field(default_factory=dict)
    tokens: Tokens | None = None


def summarize(name: str, data: DataSet, tokens: Tokens | None = None) -> Summary:
    """Count what is in a data set."""
    rows = data.rows
    chats = [row for row in rows if isinstance(row, Chat)]
    short = [
        row.where
        for row in chats
        if any(_is_short(turn.content) for turn in row.turns[1:] if turn.role == "assistant")
    ]
    seen: set[Hashable] = set()
    copies = [row.where for row in rows if row.content in seen or seen.add(row.content)]  # type: ignore[func-returns-value]
    marked = [(row.where, found) for row in rows if (found := _MARKS.findall(_text(row)))]
    return Summary(
        name=name,
        kind=data.kind,
        forms=data.forms,
        notes=data.notes,
        rows=len(rows),
        roles=dict(Counter(turn.role for chat in chats for turn in chat.turns)),
        turns=dict(
            sorted(Counter(sum(turn.role == "assistant" for turn in chat.turns) for chat in chats).items())
        ),
        short_answers=len(short),
        copies=len(copies),
        marks=dict(Counter(mark for _, found in marked for mark in found).most_common(12)),
        categories=dict(Counter(row.category for row in rows if row.category is not None).most_common()),
        characters=lengths_of([(len(_text(row)), row.where) for row in rows]),
        examples={
            "short_answers": short[:_EXAMPLES],
            "copies": copies[:_EXAMPLES],
            "marks": [where for where, _ in marked[:_EXAMPLES]],
        },
        tokens=tokens,
    )


def count_tokens(rows: Sequence[Row], tokenizer: Any, max_length: int, train_on: TrainOn) -> Tokens:
    """Tokenize all rows as training does, and count."""
    lengths: list[tuple[int, str]] = []
    refused: list[str] = []
    trained = cut = dropped = 0
    for row in rows:
        try:
            example = encode_row(tokenizer, row, _UNCUT, train_on=train_on)
        except InputError as error:
            refused.append(str(error))
            continue
        lengths.append((len(example.input_ids), row.where))
        trained += sum(label != IGNORED for label in example.labels)
        cut += len(example.input_ids) > max_length
        dropped += all(label == IGNORED for label in example.labels[1:max_length])
    total = sum(length for length, _ in lengths)
    return Tokens(
        lengths=lengths_of(lengths) if lengths else None,
        trained=trained / total if total else 0.0,
        max_length=max_length,
        cut=cut,
        dropped=dropped,
        refused=refused[:10],
        refused_rows=len(refused),
    )


def overlaps(named: Mapping[str, Sequence[Row]]) -> list[tuple[str, str, int, int]]:
    """Return, for each two data sets that share rows: their names, the rows in both, the questions in both.

    The second number has the rows of the second data set whose first question is one of the first's.
    """
    found = []
    for (one, rows), (other, others) in combinations(named.items(), 2):
        contents, questions = {row.content for row in rows}, {_question(row) for row in rows}
        same = sum(row.content in contents for row in others)
        asked = sum(_question(row) in questions for row in others)
        if same or asked:
            found.append((one, other, same, asked))
    return found


def trained_pieces(tokenizer: Any, example: Example) -> Iterator[tuple[str, bool]]:
    """Yield the text of a row in pieces, each with whether it is trained on."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    for trained, group in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        yield str(tokenizer.decode([token for token, _ in group])), trained


def lengths_of(measured: Sequence[tuple[int, str]]) -> Lengths:
    """Return the summary of at least one length, each with its place."""
    ordered = sorted(length for length, _ in measured)
    longest, place = max(measured, key=lambda pair: pair[0])
    return Lengths(
        median=statistics.median(ordered),
        percentile_95=ordered[-(-95 * len(ordered) // 100) - 1],
        longest=longest,
        longest_at=place,
        total=sum(ordered),
    )


def _is_short(answer: str) -> bool:
    return len(answer.split()) < 2 and len(answer) < 16


def _text(row: Row) -> str:
    return "\n".join(turn.content for turn in row.turns) if isinstance(row, Chat) else row.text


def _question(row: Row) -> Hashable:
    if isinstance(row, Chat):
        return next((turn.content.strip().lower() for turn in row.turns if turn.role == "user"), row.turns)
    return row.text
