"""Whole numbers in given proportions: each within one of its exact share, and their sums exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor


def apportion(total: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Divide `total` in proportion to `shares`, which add up to 1, by the largest remainders (Hamilton)."""
    exact = {name: total * share for name, share in shares.items()}
    counts = {name: floor(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def apportion_parts(rows: Mapping[str, int], shares: Mapping[str, Fraction]) -> dict[str, dict[str, int]]:
    """Divide each category's rows among parts: {category: {part: count}}.

    Each count is within one of rows x share, each part's sum as apportion gives it for all rows (controlled
    rounding, found as a flow: a cell takes its whole part, and at most one more).
    """
    parts = list(shares)
    wanted = apportion(sum(rows.values()), shares)
    cells = {name: {part: floor(count * shares[part]) for part in parts} for name, count in rows.items()}
    free = {part: wanted[part] - sum(cells[name][part] for name in rows) for part in parts}
    extra: dict[str, set[str]] = {name: set() for name in rows}
    table = _Table(
        {name: {part: count * shares[part] for part in parts} for name, count in rows.items()}, extra
    )
    for name, count in rows.items():
        for _ in range(count - sum(cells[name].values())):
            table.place(name, free)
    return {name: {part: cells[name][part] + (part in extra[name]) for part in parts} for name in rows}


@dataclass(frozen=True)
class _Table:
    """The exact numbers of each category and part, and the parts in which a category has its one row more."""

    exact: dict[str, dict[str, Fraction]]
    extra: dict[str, set[str]]

    def place(self, name: str, free: dict[str, int]) -> None:
        """Give a category one row more in a part that has room, moving other categories' rows if need be."""
        before: dict[str, tuple[str, str] | None] = dict.fromkeys(self._open(name))
        queue = list(before)
        while queue:
            part = queue.pop(0)
            if free[part] > 0:
                free[part] -= 1
                self._move(name, part, before)
                return
            for other in (one for one, held in self.extra.items() if part in held and one != name):
                for target in self._open(other):
                    if target not in before:
                        before[target] = (other, part)
                        queue.append(target)
        raise AssertionError("a controlled rounding exists for every table")

    def _open(self, name: str) -> list[str]:
        """Return the parts that may get a row more, those with the largest remainders first."""
        remainders = {part: value % 1 for part, value in self.exact[name].items() if value % 1}
        return sorted(remainders.keys() - self.extra[name], key=lambda part: (-remainders[part], part))

    def _move(self, name: str, part: str, before: dict[str, tuple[str, str] | None]) -> None:
        while (step := before[part]) is not None:
            other, left = step
            self.extra[other].discard(left)
            self.extra[other].add(part)
            part = left
        self.extra[name].add(part)
