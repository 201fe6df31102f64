from __future__ import annotations

import json

from ui.pages.compare.tally import MAX_BALLOTS, Ballot, Pair, from_plain, tally, to_csv, to_json, to_plain

BALLOTS = [
    Ballot(("b", "a"), "b", True),
    Ballot(("a", "b"), None, False),
    Ballot(("a", "b", "c"), "c", True),
]


def test_the_best_beats_each_of_the_others_and_a_tie_is_each_ones() -> None:
    assert tally(BALLOTS) == [
        Pair("a", "b", first_wins=0, second_wins=1, ties=1, blind=1),
        Pair("a", "c", first_wins=0, second_wins=1, ties=0, blind=1),
        Pair("b", "c", first_wins=0, second_wins=1, ties=0, blind=1),
    ]


def test_the_tally_is_exported() -> None:
    assert to_csv(BALLOTS).splitlines()[:2] == [
        "first,second,first_wins,second_wins,ties,blind",
        "a,b,0,1,1,1",
    ]
    exported = json.loads(to_json(BALLOTS))
    assert exported["pairs"][0]["second_wins"] == 1
    assert from_plain(exported["ballots"]) == BALLOTS


def test_a_browser_keeps_them_and_what_is_no_ballot_is_left_out() -> None:
    good = to_plain(BALLOTS)
    bad = [
        None,
        "x",
        {},
        {"models": ["a"], "best": "a", "blind": True},
        {"models": ["a", "a"], "best": "a", "blind": True},
        {"models": ["a", "b"], "best": "c", "blind": True},
        {"models": ["a", "b"], "best": "a", "blind": 1},
        {"models": ["a", ["b"]], "best": "a", "blind": True},
        {"models": ["a", "b" * 1000], "best": "a", "blind": True},
        {"models": ["a", "b"], "best": ["a"], "blind": True},
    ]
    assert from_plain([*bad, *good, *bad]) == BALLOTS
    assert from_plain({"models": []}) == from_plain(None) == []
    assert len(to_plain(BALLOTS * MAX_BALLOTS)) == len(from_plain(good * MAX_BALLOTS)) == MAX_BALLOTS
