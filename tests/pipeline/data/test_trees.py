"""Message trees: oasst1's flat rows, and its nested trees."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.reader import DataOptions, load_data, read_chats, read_data
from pipeline.errors import InputError
from tests.pipeline.data.chats import write
from tests.pipeline.data.seed_rows import oasst1, oasst1_trees, write_rows

NAMES = {"user": "q", "assistant": "a"}


def row(id_: str, parent: str | None = None, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"message_id": id_, "parent_id": parent, "role": role, "text": f"says {id_}", **more}


def said(path: Path) -> list[str]:
    return [" ".join(turn.content.removeprefix("says ") for turn in chat.turns) for chat in read_chats(path)]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.jsonl.gz", "x.json"])
def test_oasst1_is_read_as_its_best_path_of_each_tree(tmp_path: Path, name: str) -> None:
    data = load_data(write_rows(tmp_path / name, oasst1()))
    assert len(data.rows) == 4
    assert [turn.content for turn in data.rows[0].content] == [  # type: ignore[union-attr]
        "How do I keep bread fresh, try 0?",
        "Wrap it in cloth and store it in a box with a lid. That is way 0.",
        "And in winter?",
        "The same, but slower.",
    ]
    assert data.rows[3].line == 16
    assert data.notes == ["20 messages in 4 trees: the best-ranked path of each, 16 messages in 4 chats"]


def test_nested_trees_give_the_same_chats(tmp_path: Path) -> None:
    nested = write(tmp_path, *oasst1_trees())
    flat = write_rows(tmp_path / "flat.json", oasst1())
    assert [chat.turns for chat in read_chats(nested)] == [chat.turns for chat in read_chats(flat)]
    languages = [one.category for one in read_data(nested, DataOptions(field="lang"))]
    assert languages == ["en", "en", "en", "de"]
    assert languages == [one.category for one in read_data(flat, DataOptions(field="lang"))]


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    rows = oasst1()
    before = {chat.turns for chat in read_chats(write(tmp_path, *rows))}
    random.Random(3).shuffle(rows)
    assert {chat.turns for chat in read_chats(write(tmp_path, *rows))} == before


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        ([row("a", "q", rank=1), row("b", "q", rank=0)], "q b"),
        ([row("a", "q", rank=None), row("b", "q", rank=2)], "q b"),
        ([row("a", "q"), row("b", "q")], "q a"),
        ([row("a", "q", rank=0, deleted=True), row("b", "q", rank=1)], "q b"),
        ([row("a", "q"), row("p", "a", "prompter")], "q a"),
        ([row("a", "q", rank=float("nan")), row("b", "q", rank=0.0)], "q b"),
    ],
)
def test_the_best_path(tmp_path: Path, rows: list[Any], path: str) -> None:
    assert said(write_rows(tmp_path / "x.jsonl", [row("q", None, "prompter"), *rows])) == [path]


def test_a_tree_without_an_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row("q", None, "prompter"), row("a", "q"), row("r", None, "prompter")]
    data = load_data(write(tmp_path, *rows))
    assert len(data.rows) == 1
    assert data.notes[1] == "1 tree was left out, without an answer"
    with pytest.raises(InputError, match="no answer to learn from: 1 message in 1 tree"):
        read_chats(write(tmp_path, rows[2]))
    assert said(write(tmp_path, *rows[:2])) == ["q a"]
    assert len(read_chats(write(tmp_path, rows[2]), require_answer=False)) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", "gone")], "row 2: its parent_id 'gone' is no message_id here: give the whole trees"),
        ([row("q")], "row 2: the message_id 'q' is there twice"),
        ([{"text": "x"}], "row 2: it is no message of a tree: it needs the keys message_id, parent_id"),
        ([row("a", "q", text=" ")], "row 1, message 2: the assistant's content is empty"),
        ([row("a", "q", role="tool"), row("b", "a")], "row 1, message 2: the role 'tool' is unknown"),
    ],
)
def test_what_is_wrong_in_a_tree_is_told_with_its_row(tmp_path: Path, rows: list[Any], message: str) -> None:
    path = write_rows(tmp_path / "x.json", [row("q", None, "prompter"), *rows])
    with pytest.raises(InputError, match=message):
        read_chats(path)
