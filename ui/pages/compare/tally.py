"""Votes on answers side by side: ballots, kept in the browser, and the tally of each pair of models."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

MAX_BALLOTS, _MAX_NAME = 1000, 200


@dataclass(frozen=True)
class Ballot:
    """A vote on some models: the name of the best, or None for a tie; `blind`: the names were hidden."""

    models: tuple[str, ...]
    best: str | None
    blind: bool


@dataclass(frozen=True)
class Pair:
    """The results of two models against each other. The best of several beats each of the others."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    blind: int


def tally(ballots: Iterable[Ballot]) -> list[Pair]:
    """Count the votes of each pair of models, sorted by name. Two that lost to a third one did not tie."""
    counts: dict[tuple[str, str], list[int]] = {}
    for ballot in ballots:
        for pair in itertools.combinations(sorted(ballot.models), 2):
            if ballot.best is not None and ballot.best not in pair:
                continue
            count = counts.setdefault(pair, [0, 0, 0, 0])
            count[2 if ballot.best is None else pair.index(ballot.best)] += 1
            count[3] += ballot.blind
    return [Pair(*pair, *counts[pair]) for pair in sorted(counts)]


def to_plain(ballots: Sequence[Ballot]) -> list[dict[str, object]]:
    """Return the last MAX_BALLOTS ballots as JSON values for the browser."""
    return [{**asdict(ballot), "models": list(ballot.models)} for ballot in ballots[-MAX_BALLOTS:]]


def from_plain(kept: object) -> list[Ballot]:
    """Parse the browser's ballots, skipping invalid ones: the browser's storage is untrusted."""
    items = kept[-MAX_BALLOTS:] if isinstance(kept, list) else []
    return [ballot for item in items if (ballot := _ballot(item)) is not None]


def to_json(ballots: Sequence[Ballot]) -> str:
    """Return the tally and all ballots as JSON."""
    pairs = [asdict(pair) for pair in tally(ballots)]
    return json.dumps({"pairs": pairs, "ballots": to_plain(ballots)}, indent=2, ensure_ascii=False)


def to_csv(ballots: Sequence[Ballot]) -> str:
    """Return the tally as CSV, a line for each pair."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(Pair.__dataclass_fields__))
    table.writeheader()
    table.writerows(asdict(pair) for pair in tally(ballots))
    return text.getvalue()


def _ballot(item: object) -> Ballot | None:
    if not isinstance(item, dict):
        return None
    models, best, blind = item.get("models"), item.get("best"), item.get("blind")
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        return None
    named = 2 <= len(set(models)) == len(models) <= 4 and all(len(name) <= _MAX_NAME for name in models)
    if not named or best not in (None, *models) or not isinstance(blind, bool):
        return None
    return Ballot(tuple(models), best, blind)
