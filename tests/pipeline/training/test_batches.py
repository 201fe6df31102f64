"""Batches: an order that only the seed decides, padding, packing."""

from __future__ import annotations

import random

import torch

from pipeline.data.dataset import IGNORED, Example
from pipeline.evaluation.token_losses import collate
from pipeline.training.batches import LengthGroupedOrder, collate_packed, pack


def example(length: int, first: int = 0) -> Example:
    ids = list(range(first, first + length))
    return Example(ids, [IGNORED, *ids[1:]], truncated=False)


def test_each_epoch_has_every_row_once_in_another_order() -> None:
    lengths = [random.Random(row).randrange(100) for row in range(103)]
    order = LengthGroupedOrder(lengths, 4, seed=7)
    epochs = [order.order(epoch) for epoch in range(3)]
    assert all(sorted(rows) == list(range(103)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [LengthGroupedOrder(lengths, 4, seed=7).order(epoch) for epoch in range(3)] == epochs
    assert LengthGroupedOrder(lengths, 4, seed=8).order(0) != epochs[0]
    order.set_epoch(1)
    assert list(order) == epochs[1]


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = list(range(200))
    rows = LengthGroupedOrder(lengths, 4, seed=1).order(0)
    spread = [max(batch) - min(batch) for batch in (rows[at : at + 4] for at in range(0, 200, 4))]
    assert max(spread) == 3
    starts = [rows[at] for at in range(0, 200, 4)]
    assert starts != sorted(starts) and starts != sorted(starts, reverse=True)


def test_rows_are_padded_on_the_right() -> None:
    batch = collate([example(3), example(1, 9)], pad_id=5)
    assert batch["input_ids"].tolist() == [[0, 1, 2], [9, 5, 5]]
    assert batch["labels"].tolist() == [[IGNORED, 1, 2], [IGNORED, IGNORED, IGNORED]]
    assert batch["lengths"].tolist() == [3, 1]


def test_packed_rows_hold_every_chat_whole() -> None:
    sizes = [5, 9, 3, 4, 8, 2, 7, 10]
    rows = pack([example(size) for size in sizes], 10)
    assert sorted(len(one.input_ids) for row in rows for one in row.examples) == sorted(sizes)
    assert all(row.length <= 10 for row in rows)
    assert len(rows) == 5  # 48 tokens fit into no fewer


def test_the_first_token_of_a_packed_chat_is_not_predicted() -> None:
    (row,) = pack(
        [Example([1, 2, 3], [1, 2, 3], truncated=False), Example([4, 5], [4, 5], truncated=False)], 9
    )
    batch = collate_packed([row, pack([example(7)], 9)[0]])
    assert batch["input_ids"].tolist()[0] == [1, 2, 3, 4, 5, 0, 0]
    assert batch["labels"].tolist()[0] == [IGNORED, 2, 3, IGNORED, 5, IGNORED, IGNORED]
    assert batch["position_ids"].tolist()[0][:5] == [0, 1, 2, 0, 1]
    assert torch.equal(batch["lengths"], torch.tensor([5, 7]))
