"""The page: escaped, self-contained, with marks where answers differ, and a row for a file that fails."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.evaluation.config import Evaluation, Measured, ModelResult, SideBySide
from pipeline.evaluation.page import (
    interval,
    number,
    render_page,
    results,
    shown_answers,
    summary,
    write_report,
)
from pipeline.evaluation.statistics import RowLoss, compare, summarize

INPUTS = {"data": "held<1>.jsonl", "field": "source", "max_tokens": 128, "base": "B", "adapters": ["A"]}
BASE = tuple(RowLoss(2.0 + n / 10, 2, "a&b") for n in range(6))
TUNED = tuple(RowLoss(1.0 + n / 10, 2, "a&b") for n in range(6))


def evaluation(folder: Path = Path("out")) -> Evaluation:
    paired = compare(BASE, TUNED)
    models = (
        ModelResult("base", "base", BASE, summarize(BASE), None, {"a&b": Measured(summarize(BASE))}),
        ModelResult(
            "tuned", "tuned", TUNED, summarize(TUNED), paired, {"a&b": Measured(summarize(TUNED), paired)}
        ),
        ModelResult("x-Q4_0.gguf", "gguf", size=90_000_000, failure="llama.cpp <died>"),
    )
    answers = (
        SideBySide(
            "<script>alert(1)</script>",
            "wanted & good",
            {"base": "I am a <b>model</b>.", "tuned": "I am a pirate."},
        ),
    )
    return Evaluation(folder, models, answers, 6, 0, 0, ("a <note>",))


def test_the_page_is_escaped_and_loads_nothing() -> None:
    page = render_page(evaluation(), INPUTS)
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>" not in page and "&lt;died&gt;" in page and "a &lt;note&gt;" in page
    assert "held&lt;1&gt;.jsonl" in page and "a&amp;b" in page
    assert re.findall(r"(?:src|href|url|@import)\b", page) == []
    assert "color-scheme: light dark" in page


def test_the_table_has_a_row_for_each_model() -> None:
    page = render_page(evaluation(), INPUTS)
    table = page.partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>|\s+", " ", row).split() for row in table.split("<tr>")[2:]]
    assert [row[0] for row in rows] == ["base", "tuned", "x-Q4_0.gguf"]
    assert rows[0][1] == "1.125" and "3.08" in rows[0]
    assert rows[1][1] == "0.625" and "0.500" in rows[1] and "100%" in rows[1] and "61%" in rows[1]
    assert rows[2][-2:] == ["90", "MB"] and "&lt;died&gt;" in rows[2]


def test_only_words_that_differ_are_marked() -> None:
    base, tuned = shown_answers(evaluation().answers[0])
    assert (tuned.same, base.same) == (None, False)
    assert "".join(piece.text for piece in base.pieces) == "I am a <b>model</b>."
    assert [piece.text for piece in base.pieces if not piece.differs] == ["I am a ", "."]
    page = render_page(evaluation(), INPUTS)
    assert "I am a <mark>&lt;b&gt;model&lt;/b&gt;</mark>." in page
    assert page.count("differs from tuned") == 1


def test_equal_answers_have_no_mark() -> None:
    shown = list(shown_answers(SideBySide("?", None, {"base": "Ja.", "tuned": "Ja.", "q.gguf": "Ja."})))
    assert [one.same for one in shown] == [True, None, True]
    assert not any(piece.differs for one in shown for piece in one.pieces)


def test_without_a_tuned_model_the_first_is_compared_with() -> None:
    shown = list(shown_answers(SideBySide("?", None, {"base": "a", "q.gguf": "b"})))
    assert [(one.name, one.same) for one in shown] == [("base", None), ("q.gguf", False)]


def test_long_answers_are_marked_whole() -> None:
    shown = list(shown_answers(SideBySide("?", None, {"tuned": "a " * 3000, "base": "b " * 3000})))
    assert [piece.differs for piece in shown[1].pieces] == [True]


def test_one_answer_without_loss_intervals_is_shown() -> None:
    few = (RowLoss(1.0, 2),)
    found = Evaluation(Path("out"), (ModelResult("tuned", "tuned", few, summarize(few)),), (), 1, 0, 0, ())
    page = render_page(found, {"data": "d", "field": None, "max_tokens": 1, "tuned": "T"})
    assert "1 held-out row, tuned model T" in " ".join(page.split()).replace(" ,", ",")
    assert "nan" not in page and "below the base" not in page and "side by side" not in page


def test_results_are_json_without_nan() -> None:
    content = json.loads(json.dumps(results(evaluation()), allow_nan=False))
    assert content["rows"]["tokens"] == [2] * 6
    assert [model["loss"] for model in content["models"][:2]] == [1.125, 0.625]
    assert content["models"][1]["paired"]["better"] == 6
    assert content["models"][2] == {
        "name": "x-Q4_0.gguf",
        "kind": "gguf",
        "size": 90_000_000,
        "failure": "llama.cpp <died>",
        "paired": None,
        "categories": {},
        "nats": [],
    }
    assert content["answers"][0]["answers"]["tuned"] == "I am a pirate."
    line = summary(evaluation())
    assert line["report"] == "out/evaluation.html" and "nats" not in line["models"][0]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made"):
        write_report(evaluation(tmp_path / "file" / "out"), INPUTS)


def test_numbers_that_are_not_known_are_not_shown() -> None:
    assert number(math.nan) == "–"
    assert interval(math.nan, math.nan) == ""
    assert interval(1.0, 2.0) == "1.000 to 2.000"
