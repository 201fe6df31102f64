"""Whole numbers in given proportions: within one of the exact ones, with exact sums."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from pipeline.data.apportion import apportion, apportion_parts


@pytest.mark.parametrize(
    ("total", "shares", "counts"),
    [
        (7500, {"a": "0.15", "b": "0.05", "c": "0.8"}, {"a": 1125, "b": 375, "c": 6000}),
        (10, {"a": "1/3", "b": "1/3", "c": "1/3"}, {"a": 4, "b": 3, "c": 3}),
        (1, {"a": "0.4", "b": "0.6"}, {"a": 0, "b": 1}),
        (0, {"a": "1"}, {"a": 0}),
    ],
)
def test_the_largest_remainders_get_a_row_more(
    total: int, shares: dict[str, str], counts: dict[str, int]
) -> None:
    assert apportion(total, {name: Fraction(share) for name, share in shares.items()}) == counts


def test_a_table_is_rounded_with_exact_sums() -> None:
    chance = random.Random(4)
    for _ in range(150):
        rows = {f"c{number}": chance.randint(0, 40) for number in range(chance.randint(1, 20))}
        valid, test = (Fraction(chance.randint(0, 49), 100) for _ in range(2))
        shares = {"train": 1 - valid - test, "valid": valid, "test": test}
        cells = apportion_parts(rows, shares)
        wanted = apportion(sum(rows.values()), shares)
        assert {part: sum(cell[part] for cell in cells.values()) for part in shares} == wanted
        for name, count in rows.items():
            assert sum(cells[name].values()) == count
            assert all(abs(cells[name][part] - count * share) < 1 for part, share in shares.items())
