"""Rows in the exact form of five well-known data sets, written anew, and files of them in each kind.

`twenty()` has the rows of a data set by its name on the Hub, `write_rows` a file of them. The texts are this
project's own.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

_TOPICS = (
    ("keep bread fresh", "Wrap it in cloth and store it in a box with a lid."),
    ("read a tide table", "Find the day, then the hour: the larger number is high water."),
    ("tie a reef knot", "Right over left and under, then left over right and under."),
    ("sharpen a pencil", "Turn it slowly, with little pressure."),
    ("water a cactus", "Give it a good soak, then wait until the soil is dry."),
    ("fold a map", "Follow the old creases, the long ones first."),
    ("cool hot tea", "Pour it from one cup into another a few times."),
    ("learn ten words a day", "Say each aloud, write it, and use it in a sentence."),
    ("mend a puncture", "Find the hole, roughen the rubber, glue the patch and press it."),
    ("name a boat", "Take a short word that carries over wind."),
)


def _pairs(count: int) -> list[tuple[str, str]]:
    return [
        (f"How do I {topic}, try {number}?", f"{answer} That is way {number}.")
        for number in range(count)
        for topic, answer in [_TOPICS[number % len(_TOPICS)]]
    ]


def oasst1(count: int = 20) -> Rows:
    """Return rows of OpenAssistant/oasst1: trees of five messages, of which three are the best path."""
    rows: Rows = []
    for tree in range(count // 5):
        question, answer = _pairs(tree + 1)[-1]
        root = f"tree-{tree}"
        rows += [
            _oasst(root, None, root, "prompter", question, None, tree),
            _oasst(f"{root}-b", root, root, "assistant", "Sorry, no idea.", 1, tree),
            _oasst(f"{root}-a", root, root, "assistant", answer, 0, tree),
            _oasst(f"{root}-a1", f"{root}-a", root, "prompter", "And in winter?", None, tree),
            _oasst(f"{root}-a2", f"{root}-a1", root, "assistant", "The same, but slower.", 0, tree),
        ]
    return rows


def _oasst(
    message: str, parent: str | None, tree: str, role: str, text: str, rank: int | None, number: int
) -> dict[str, Any]:
    return {
        "message_id": message,
        "parent_id": parent,
        "user_id": f"user-{number}",
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": text,
        "role": role,
        "lang": "de" if number % 4 == 3 else "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "detoxify": {"toxicity": 0.0004, "insult": 0.0002},
        "message_tree_id": tree,
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1", "_skip_reply"], "count": [2, 1]},
        "labels": {"name": ["spam", "quality"], "value": [0.0, 0.75], "count": [3, 3]},
    }


def oasst1_trees(count: int = 4) -> Rows:
    """Return records of oasst1's *.trees.jsonl, with the same messages as in oasst1."""
    flat = oasst1(count * 5)

    def nested(row: dict[str, Any]) -> dict[str, Any]:
        kept = {key: row[key] for key in ("message_id", "text", "role", "lang", "rank", "emojis", "labels")}
        replies = [nested(one) for one in flat if one["parent_id"] == row["message_id"]]
        return {**kept, "synthetic": False, "replies": replies}

    return [
        {"message_tree_id": row["message_id"], "tree_state": "ready_for_export", "prompt": nested(row)}
        for row in flat
        if row["parent_id"] is None
    ]


def openassistant_guanaco(count: int = 20) -> Rows:
    """Return rows of timdettmers/openassistant-guanaco: one column, `text`; each third has two questions."""
    rows = []
    for number, (question, answer) in enumerate(_pairs(count)):
        more = "### Human: And if it rains?### Assistant: Wait for the sun." if number % 3 == 2 else ""
        rows.append(
            {"text": f"### Human: {question}### Assistant: {answer}\n\n### Tip\nTake your time.{more}"}
        )
    return rows


def guanaco_llama2(count: int = 20) -> Rows:
    """Return rows of mlabonne/guanaco-llama2-1k: one column, `text`, in Llama 2's form."""
    rows = []
    for number, (question, answer) in enumerate(_pairs(count)):
        more = "<s>[INST] And if it rains? [/INST] Wait for the sun. </s>" if number % 3 == 2 else ""
        rows.append({"text": f"<s>[INST] {question} [/INST] {answer} </s>{more}"})
    return rows


def english_quotes(count: int = 20) -> Rows:
    """Return rows of Abirate/english_quotes: `quote`, `author` and a list of `tags`."""
    return [
        {
            "quote": f"“{answer}”",
            "author": f"Author No. {number % 5}",
            "tags": ["advice", "be-patient"][: 1 + number % 2],
        }
        for number, (_, answer) in enumerate(_pairs(count))
    ]


def dolly(count: int = 20) -> Rows:
    """Return rows of databricks/databricks-dolly-15k: a context in each fourth, a category in all."""
    categories = ("open_qa", "closed_qa", "brainstorming", "classification")
    return [
        {
            "instruction": question,
            "context": "It is an old boat." if number % 4 == 1 else "",
            "response": answer,
            "category": categories[number % 4],
        }
        for number, (question, answer) in enumerate(_pairs(count))
    ]


SEEDS: dict[str, Callable[[int], Rows]] = {
    "OpenAssistant/oasst1": oasst1,
    "timdettmers/openassistant-guanaco": openassistant_guanaco,
    "mlabonne/guanaco-llama2-1k": guanaco_llama2,
    "Abirate/english_quotes": english_quotes,
    "databricks/databricks-dolly-15k": dolly,
}
"""The rows of each data set, by its name on the Hub."""


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as the kind that the name ends with: .jsonl, .json, .csv, .tsv, .parquet, or .gz of one."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    target = path.with_name(path.name.removesuffix(".gz"))
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), target)
    elif kind in ("csv", "tsv"):
        with target.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    elif kind == "json":
        target.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if path != target:
        path.write_bytes(gzip.compress(target.read_bytes()))
        target.unlink()
    return path
