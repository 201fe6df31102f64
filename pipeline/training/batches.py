"""The batches of a training: their order, which only the seed decides, their padding, and packing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.data import Sampler

from pipeline.data.dataset import IGNORED, Example
from pipeline.evaluation.token_losses import padded

_WINDOW = 50
"""Batches whose chats are sorted by length, so that little is padded (transformers' LengthGroupedSampler)."""


class LengthGroupedOrder(Sampler[int]):
    """The order of the rows in each epoch: shuffled, with rows of similar length in the same batch.

    It depends on the seed and the epoch only, so that a resumed training sees what it would have seen.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self._epoch))

    def order(self, epoch: int) -> list[int]:
        """Return the rows of an epoch; the batch that is not full is the last one."""
        dice = random.Random(f"{self._seed} {epoch}")
        rows = list(range(len(self._lengths)))
        dice.shuffle(rows)
        window = self._batch_size * _WINDOW
        full, rest = [], []
        for start in range(0, len(rows), window):
            near = sorted(rows[start : start + window], key=lambda row: -self._lengths[row])
            batches = [near[at : at + self._batch_size] for at in range(0, len(near), self._batch_size)]
            rest = batches.pop() if len(batches[-1]) < self._batch_size else []
            full += batches
        dice.shuffle(full)
        return [row for batch in (*full, rest) for row in batch]


@dataclass(frozen=True)
class PackedRow:
    """Whole chats in one row, which do not see each other."""

    examples: tuple[Example, ...]
    length: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", sum(len(example.input_ids) for example in self.examples))


def pack(examples: Sequence[Example], max_length: int) -> list[PackedRow]:
    """Fill rows of at most `max_length` tokens with whole chats; the longest first, where it fits best."""
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda one: -len(one.input_ids)):
        size = len(example.input_ids)
        fitting = [place for place, left in enumerate(room) if left >= size]
        if fitting:
            place = min(fitting, key=room.__getitem__)
            rows[place].append(example)
            room[place] -= size
        else:
            rows.append([example])
            room.append(max_length - size)
    return [PackedRow(tuple(row)) for row in rows]


def collate_packed(rows: Sequence[PackedRow], pad_id: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch of packed rows, with position_ids that start anew with each chat.

    transformers keeps apart what these positions separate, where no mask is given. The first token of a chat
    is not predicted from the chat before.
    """
    ids = [[token for one in row.examples for token in one.input_ids] for row in rows]
    labels = [[label for one in row.examples for label in (IGNORED, *one.labels[1:])] for row in rows]
    places = [[place for one in row.examples for place in range(len(one.input_ids))] for row in rows]
    longest = max(map(len, ids))
    positions = [[*row, *range(longest - len(row))] for row in places]
    return {
        "input_ids": padded(ids, pad_id),
        "labels": padded(labels, IGNORED),
        "position_ids": torch.tensor(positions),
        "lengths": torch.tensor([row.length for row in rows]),
    }
