"""Votes on answers side by side: ballots, and the tally of each pair of models. Browsers keep them."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

MOST_BALLOTS, _LONGEST_NAME = 1000, 200


@dataclass(frozen=True)
class Ballot:
    """One vote on some models: the best one's name, or None for a tie, and whether it was blind."""

    models: tuple[str, ...]
    best: str | None
    blind: bool


@dataclass(frozen=True)
class Pair:
    """How two models fared against each other. The best of several beats each of the others."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    blind: int


def tally(ballots: Iterable[Ballot]) -> list[Pair]:
    """A line for each pair of models that met, by their names. Two that lost to a third one did not tie."""
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
    """What a browser keeps; the oldest ballots go when there are too many."""
    return [{**asdict(ballot), "models": list(ballot.models)} for ballot in ballots[-MOST_BALLOTS:]]


def from_plain(kept: object) -> list[Ballot]:
    """The ballots of what a browser kept; what is no ballot is left out, since anyone may write there."""
    items = kept[-MOST_BALLOTS:] if isinstance(kept, list) else []
    return [ballot for item in items if (ballot := _ballot(item)) is not None]


def to_json(ballots: Sequence[Ballot]) -> str:
    """The tally and all ballots."""
    pairs = [asdict(pair) for pair in tally(ballots)]
    return json.dumps({"pairs": pairs, "ballots": to_plain(ballots)}, indent=2, ensure_ascii=False)


def to_csv(ballots: Sequence[Ballot]) -> str:
    """The tally, one line for each pair."""
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
    named = 2 <= len(set(models)) == len(models) <= 4 and all(len(name) <= _LONGEST_NAME for name in models)
    if not named or best not in (None, *models) or not isinstance(blind, bool):
        return None
    return Ballot(tuple(models), best, blind)
