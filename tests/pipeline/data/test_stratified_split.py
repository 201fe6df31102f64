"""The split by categories: proportions, copies, seeds, and each way to ask for what cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.options import DataOptions
from pipeline.data.reader import read_data
from pipeline.data.rows import Chat, ChatTurn
from pipeline.data.split_folder import write_split
from pipeline.data.stratified_split import SplitOptions, split_by_category
from pipeline.errors import InputError
from tests.pipeline.data.seed_rows import dolly, english_quotes, write_rows

SIZES = {"code": 200, "books": 100, "news": 60, "law": 40}


def rows(**sizes: int) -> list[Chat]:
    return [
        Chat((ChatTurn("user", f"{name} {number}?"), ChatTurn("assistant", "Aye")), number, "x", name)
        for name, size in (sizes or SIZES).items()
        for number in range(1, size + 1)
    ]


def contents(part: Any) -> set[Any]:
    return {row.content for row in part}


def test_ratios_and_parts_hold_within_one_row() -> None:
    options = SplitOptions(("code=0.15", "books=0.05"), 99, "0.25", "0.25")
    found = split_by_category(rows(), options).counts()
    taken = {name: sum(part[name] for part in found.values()) for name in SIZES}
    assert taken == {"code": 15, "books": 5, "news": 47, "law": 32}  # news and law share 0.8 as 60 to 40
    assert {part: sum(cell.values()) for part, cell in found.items()} == {
        "train": 49,
        "valid": 25,
        "test": 25,
    }
    for part, share in (("train", 0.5), ("valid", 0.25), ("test", 0.25)):
        assert all(abs(found[part][name] - share * count) < 1 for name, count in taken.items())


def test_a_mixture_of_7500_rows() -> None:
    sizes = {"code": 2000, "books": 400, "law": 9000}
    ratios = ("code=0.15", "books=0.05", "law=0.8")
    split = split_by_category(rows(**sizes), SplitOptions(ratios, 7500, "0.25", "0.25"))
    assert split.counts()["train"] == {"books": 187, "code": 563, "law": 3000}
    assert split.counts()["test"] == {"books": 94, "code": 281, "law": 1500}
    assert split.unused == 11400 - 7500


@pytest.mark.parametrize(
    ("ratios", "taken"),
    [
        ((), {"code": 200, "books": 100, "news": 60, "law": 40}),
        (("code=0.25", "books=0.75"), {"code": 33, "books": 100}),
        (("law=1/2",), {"code": 22, "books": 11, "news": 7, "law": 40}),
    ],
)
def test_without_a_total_as_many_rows_as_possible_are_taken(
    ratios: tuple[str, ...], taken: dict[str, int]
) -> None:
    split = split_by_category(rows(), SplitOptions(ratios, valid="0"))
    assert {name: count for name, count in split.counts()["train"].items() if count} == dict(
        sorted(taken.items())
    )


def test_the_seed_decides_and_no_row_is_on_two_sides() -> None:
    options = SplitOptions(valid="0.25", test="0.25", seed=7)
    first, again, other = (
        split_by_category(rows(), one) for one in (options, options, SplitOptions(valid="0.25", test="0.25"))
    )
    assert first == again
    assert first.parts["test"] != other.parts["test"]
    parts = [contents(part) for part in first.parts.values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 400


def test_copies_are_taken_once_wherever_they_are() -> None:
    copies = [Chat(row.turns, 1, "y", "law") for row in rows(code=30)]
    split = split_by_category([*rows(code=30, law=30), *copies], SplitOptions(valid="0.5"))
    assert split.copies == 30
    assert split.counts() == {"train": {"code": 15, "law": 15}, "valid": {"code": 15, "law": 15}}
    with pytest.raises(
        InputError, match=r"'code' has 30 different rows \(30 copies are not counted\), and 1 of 31"
    ):
        split_by_category([*rows(code=30), *rows(code=30), *rows(law=9)], SplitOptions(("code=1",), 31))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": ("code=0.7", "books=0.5")}, r"add up to 1.2 \(code 0.7 \+ books 0.5\): use 1 or less"),
        ({"ratios": ("code=0.5",), "total": 401}, "--total 401 is more than the 400 different rows"),
        (
            {"ratios": ("code=0.9",), "total": 300},
            "'code' has 200 different rows, and 0.9 of 300 asks for 270: use --total 222, a smaller ratio",
        ),
        (
            {"ratios": ("coed=0.5",)},
            "'coed', which no row has: perhaps 'code'; the categories are 'code', 'boo",
        ),
        (
            {"ratios": ("zzz=0.5",)},
            "'zzz', which no row has: the categories are 'code', 'books', 'news', 'law'",
        ),
        ({"ratios": ("codebookslaw=0.5",)}, "which is the names 'code', 'books', 'law' run together"),
        ({"ratios": ("code,books=0.5",)}, "which is the names 'code', 'books' run together: write each in a"),
        ({"ratios": ("code=0.1,books=0.2",)}, "--ratio 'code=0.1,books=0.2' holds two"),
        (
            {"ratios": ("code=0.5", "books=0.1", "news=0.1", "law=0.1")},
            "add up to 0.8, and there is no other",
        ),
        ({"ratios": ("code",)}, "--ratio 'code' is no CATEGORY=SHARE: write code=0.15"),
        ({"ratios": ("code=lots",)}, "'lots' is no number: write it as 0.15"),
        ({"ratios": ("code=15%",)}, "'15%' is no number: write 15/100"),
        ({"ratios": ("code=nan",)}, "'nan' is no number"),
        ({"ratios": ("code=15",)}, "out of range: use a fraction, 0 to 1"),
        ({"ratios": ("code=0",)}, "takes no row"),
        ({"ratios": ("code=0.1", "code=0.2")}, "names 'code' twice"),
        ({"valid": "0.5", "test": "0.5"}, "--valid 0.5 and --test 0.5 add up to 1, which leaves nothing"),
        ({"valid": "0.7", "test": "0.7"}, "add up to 1.4"),
        ({"valid": "-0.1"}, "--valid -0.1 is out of range"),
        ({"total": 5, "test": "0.01"}, "--test 0.01 of 5 rows is less than one row: use a larger share"),
        ({"total": 0}, "--total 0 is out of range"),
        ({"seed": -1}, "--seed -1 is out of range"),
    ],
)
def test_what_cannot_be_had_is_told_with_the_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        split_by_category(rows(), SplitOptions(**options))
    assert "\n" not in str(caught.value)


def test_rows_without_categories_have_no_ratios() -> None:
    bare = [Chat(row.turns, row.line) for row in rows(code=20)]
    assert split_by_category(bare, SplitOptions(valid="0.25")).counts() == {
        "train": {"": 15},
        "valid": {"": 5},
    }
    with pytest.raises(InputError, match="'code', and the rows have no categories: name them with --field"):
        split_by_category(bare, SplitOptions(("code=1",)))


def test_what_a_category_misses_is_noted() -> None:
    split = split_by_category(rows(code=40, law=1), SplitOptions(test="0.1"))
    assert "test has no row of 'law': too few rows for its share" in split.notes
    split = split_by_category(rows(code=40, law=9), SplitOptions(("code=1",)))
    assert split.notes[0] == "not taken, as the ratios add up to 1 without them: 'law'"


def test_the_folder_has_the_parts_and_a_record(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "dolly.parquet", dolly())
    reading, options = DataOptions(field="category"), SplitOptions(valid="0.25", test="0.25")
    record = write_split([str(data)], reading, options, tmp_path / "a")
    write_split([str(data)], reading, options, tmp_path / "b")
    names = ["split.json", "test.jsonl", "train.jsonl", "valid.jsonl"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert record == json.loads((tmp_path / "a" / "split.json").read_text())
    assert record["outputs"]["train.jsonl"]["rows"] == 10
    assert record["inputs"][0]["rows"] == 20 and len(record["inputs"][0]["sha256"]) == 64
    again = [
        row
        for part in ("train", "valid", "test")
        for row in read_data(tmp_path / "a" / f"{part}.jsonl", reading)
    ]
    whole = read_data(data, reading)
    assert {(row.content, row.category) for row in again} == {(row.content, row.category) for row in whole}


def test_files_are_categories_where_no_field_is_named(tmp_path: Path) -> None:
    code = write_rows(
        tmp_path / "code.jsonl.gz", [{"text": f"### Human: {n}?### Assistant: Aye"} for n in range(8)]
    )
    chats = write_rows(tmp_path / "dolly.csv", dolly(12))
    options = SplitOptions(("code=0.4", "dolly=0.6"), 10, valid="0.2")
    record = write_split([str(code), str(chats)], DataOptions(), options, tmp_path / "out")
    assert record["outputs"]["train.jsonl"]["categories"] == {"code": 3, "dolly": 5}
    assert json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])["category"] in (
        "code",
        "dolly",
    )


def test_plain_texts_are_split_too(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "quotes.json", english_quotes())
    reading = DataOptions(text="{quote}", field="author")
    write_split([str(data)], reading, SplitOptions(valid="0.25"), tmp_path / "out")
    rows = read_data(tmp_path / "out" / "valid.jsonl", DataOptions(text="{text}", field="author"))
    assert sorted(row.category or "" for row in rows) == [f"Author No. {number}" for number in range(5)]


def test_a_folder_is_only_replaced_if_it_is_a_split(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", dolly())
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("dear")
    for force, message in (
        (False, "exists already: choose another, or give --force"),
        (True, "no folder of a sp"),
    ):
        with pytest.raises(InputError, match=message):
            write_split([str(data)], DataOptions(), SplitOptions(), mine, force=force)
    write_split([str(data)], DataOptions(), SplitOptions(), tmp_path / "out")
    before = (tmp_path / "out" / "train.jsonl").read_bytes()
    with pytest.raises(InputError, match="--total 99 is more than the 20 different rows"):
        write_split([str(data)], DataOptions(), SplitOptions(total=99), tmp_path / "out", force=True)
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == before
    write_split([str(data)], DataOptions(), SplitOptions(seed=1), tmp_path / "out", force=True)
    assert (tmp_path / "out" / "train.jsonl").read_bytes() != before
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
