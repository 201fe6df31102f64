"""Split rows into train, valid and test by category: a mixture by ratios, in each part the same.

Copies of a row count once, so that none is on two sides. The same rows, options and seed give the same parts.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from math import floor

from common.text import pluralize
from pipeline.data.apportion import apportion, apportion_parts
from pipeline.data.rows import Row
from pipeline.errors import InputError

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class SplitOptions:
    """The options of a split. Raises InputError for values out of range.

    `ratios` has the share of each category in `total`, as "code=0.15"; what they leave is shared by the other
    categories in proportion to their rows. Without `total` it is the largest possible. `valid` and `test` are
    fractions of the total.
    """

    ratios: tuple[str, ...] = ()
    total: int | None = None
    valid: str = "0.1"
    test: str = "0"
    seed: int = 42

    def __post_init__(self) -> None:
        if self.total is not None and self.total < 1:
            raise InputError(f"--total {self.total} is out of range: use 1 or more rows")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed} is out of range: use 0 to 4294967295")
        shares, ratios = self.shares(), self.parsed_ratios()
        if shares["train"] <= 0:
            raise InputError(
                f"--valid {self.valid} and --test {self.test} add up to {float(1 - shares['train']):g}, "
                "which leaves nothing to train on: use less than 1 together"
            )
        if sum(ratios.values()) > 1:
            terms = " + ".join(f"{name} {float(ratio):g}" for name, ratio in ratios.items())
            raise InputError(
                f"the ratios add up to {float(sum(ratios.values())):g} ({terms}): use 1 or less together"
            )

    def shares(self) -> dict[str, Fraction]:
        """Return the share of each part."""
        valid, test = _fraction("--valid", self.valid), _fraction("--test", self.test)
        return {"train": 1 - valid - test, "valid": valid, "test": test}

    def parsed_ratios(self) -> dict[str, Fraction]:
        """Return the share of each category that has one."""
        found: dict[str, Fraction] = {}
        for given in self.ratios:
            name, equals, value = given.rpartition("=")
            name = name.strip()
            if not equals or not name:
                raise InputError(f"--ratio {given!r} is no CATEGORY=SHARE: write code=0.15, one for each")
            if "=" in name:
                raise InputError(f"--ratio {given!r} holds two ratios: write each in a --ratio of its own")
            if name in found:
                raise InputError(f"--ratio names {name!r} twice: keep one")
            found[name] = _fraction(f"--ratio {given!r}:", value.strip())
            if not found[name]:
                raise InputError(f"--ratio {given!r} takes no row: let the others add up to 1 instead")
        return found


@dataclass(frozen=True)
class Split:
    """The rows of each part, and notes on what was left out. `copies` of rows were, and `unused` others."""

    parts: dict[str, list[Row]]
    copies: int
    unused: int
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return each part's rows by category."""
        return {part: count_categories(rows) for part, rows in self.parts.items()}


def count_categories(rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of rows of each category, sorted by its name; "" for none."""
    found: dict[str, int] = defaultdict(int)
    for row in rows:
        found[row.category or ""] += 1
    return dict(sorted(found.items()))


def split_by_category(rows: Sequence[Row], options: SplitOptions) -> Split:
    """Split rows by their categories. Raises InputError, with the numbers, for what cannot be had."""
    distinct = list({row.content: row for row in reversed(rows)}.values())[::-1]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in distinct:
        groups[row.category or ""].append(row)
    copies = len(rows) - len(distinct)
    wanted = _wanted({name: len(group) for name, group in groups.items()}, options, copies)
    cells = apportion_parts(wanted, options.shares())
    _reject_empty_parts(cells, options)
    chance = random.Random(options.seed)
    parts: dict[str, list[Row]] = {part: [] for part in PARTS if options.shares()[part]}
    for name in sorted(groups):
        chance.shuffle(groups[name])
        left = iter(groups[name])
        for part in parts:
            parts[part] += [next(left) for _ in range(cells.get(name, {}).get(part, 0))]
    for mixed in parts.values():
        chance.shuffle(mixed)
    unused = len(distinct) - sum(map(len, parts.values()))
    return Split(parts, copies, unused, _notes(groups, wanted, cells, options))


def _wanted(sizes: Mapping[str, int], options: SplitOptions, copies: int) -> dict[str, int]:
    """Return how many rows of each category are taken."""
    shares = _category_shares(sizes, options)
    most = min(floor(sizes[name] / share) for name, share in shares.items())
    total = most if options.total is None else options.total
    counts = apportion(total, shares)
    without = f" ({pluralize(copies, 'copy is', 'copies are')} not counted)" if copies else ""
    short = [name for name, count in counts.items() if count > sizes[name]]
    if options.total is not None and options.total > sum(sizes.values()):
        raise InputError(
            f"--total {options.total} is more than the {pluralize(sum(sizes.values()), 'different row')} "
            f"that there are{without}: ask for fewer, or add data"
        )
    if short:
        name = short[0]
        raise InputError(
            f"the category {name!r} has {pluralize(sizes[name], 'different row')}{without}, and "
            f"{float(shares[name]):.4g} of {total} asks for {counts[name]}: use --total {most}, "
            "a smaller ratio, or add data"
        )
    if not sum(counts.values()):
        raise InputError("no row is left with these ratios: a category has too few rows for its share")
    return counts


def _category_shares(sizes: Mapping[str, int], options: SplitOptions) -> dict[str, Fraction]:
    ratios = options.parsed_ratios()
    for name in ratios:
        if name not in sizes:
            raise _unknown_category(name, sizes)
    left = 1 - sum(ratios.values())
    others = {name: size for name, size in sizes.items() if name not in ratios}
    if left and not others:
        raise InputError(
            f"the ratios add up to {float(1 - left):g}, and there is no other category for the rest: "
            "make them add up to 1"
        )
    count = sum(others.values())
    return ratios | ({name: left * Fraction(size, count) for name, size in others.items()} if left else {})


def _unknown_category(name: str, sizes: Mapping[str, int]) -> InputError:
    known = ", ".join(repr(one) for one in list(sizes)[:12]) + (" and more" if len(sizes) > 12 else "")
    if sizes.keys() == {""}:
        return InputError(f"--ratio names {name!r}, and the rows have no categories: name them with --field")
    if inside := _run_together(name, sizes):
        return InputError(
            f"--ratio names {name!r}, which is the names {', '.join(map(repr, inside))} run together: "
            "write each in a --ratio of its own"
        )
    if "," in name:
        return InputError(f"--ratio names {name!r}: write each category in a --ratio of its own")
    close = get_close_matches(name, sizes, 3, 0.5)
    nearest = f"perhaps {' or '.join(map(repr, close))}; " if close else ""
    return InputError(f"--ratio names {name!r}, which no row has: {nearest}the categories are {known}")


def _run_together(name: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the categories whose names, one after the other, are the name, as in a list without commas."""
    found: list[str] = []
    while name:
        part = max((one for one in sizes if one and name.startswith(one)), key=len, default=None)
        if part is None:
            return []
        found.append(part)
        name = name[len(part) :].lstrip(" ,;+")
    return found


def _reject_empty_parts(cells: Mapping[str, Mapping[str, int]], options: SplitOptions) -> None:
    total = sum(sum(cell.values()) for cell in cells.values())
    for part, share in options.shares().items():
        if share and not sum(cell[part] for cell in cells.values()):
            option = "what is left to train on" if part == "train" else f"--{part} {getattr(options, part)}"
            raise InputError(
                f"{option} of {pluralize(total, 'row')} is less than one row: use a larger share"
            )


def _notes(
    groups: Mapping[str, Sequence[Row]],
    wanted: Mapping[str, int],
    cells: Mapping[str, Mapping[str, int]],
    options: SplitOptions,
) -> list[str]:
    notes = []
    if unasked := sorted(name for name in groups if not wanted.get(name)):
        notes.append(f"not taken, as the ratios add up to 1 without them: {', '.join(map(repr, unasked))}")
    for part, share in options.shares().items():
        missing = sorted(name for name, cell in cells.items() if share and wanted[name] and not cell[part])
        if missing:
            notes.append(f"{part} has no row of {', '.join(map(repr, missing))}: too few rows for its share")
    return notes


def _fraction(option: str, value: str) -> Fraction:
    try:
        found = Fraction(value)
    except (ValueError, ZeroDivisionError):
        hint = f": write {value[:-1]}/100" if value.endswith("%") else ": write it as 0.15"
        raise InputError(f"{option} {value!r} is no number{hint}") from None
    if not 0 <= found <= 1:
        raise InputError(f"{option} {value} is out of range: use a fraction, 0 to 1")
    return found
