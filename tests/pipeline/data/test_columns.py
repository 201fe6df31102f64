"""The columns that a user names: --columns, --text and --field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.reader import DataOptions, PlainText, read_chats, read_data
from pipeline.errors import InputError
from tests.pipeline.data.chats import bob, system, user, write
from tests.pipeline.data.seed_rows import SEEDS, dolly, english_quotes, write_rows

ROW = {"Frage": "Hi", "Antwort": "Yo", "Regel": "Be.", "Text": "Ctx", "n": 3, "none": None, "list": [{}]}


@pytest.mark.parametrize(
    ("columns", "messages"),
    [
        ("question=Frage,answer=Antwort", [user("Hi"), bob("Yo")]),
        ("question=frage,answer=ANTWORT", [user("Hi"), bob("Yo")]),
        (" answer = Antwort , question = Frage ", [user("Hi"), bob("Yo")]),
        (
            "question=Frage,answer=Antwort,system=Regel,context=Text",
            [system("Be."), user("Hi\n\nCtx"), bob("Yo")],
        ),
        ("question=Frage,answer=n,system=none,context=none", [user("Hi"), bob("3")]),
    ],
)
def test_named_columns_make_a_chat(tmp_path: Path, columns: str, messages: list[Any]) -> None:
    (row,) = read_data(write(tmp_path, ROW), DataOptions(columns=columns))
    assert row.messages() == messages  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Question", "Answer"),
        (" QUESTION", "answer "),
        ("instruction", "response"),
        ("query", "reply"),
        ("input", "target"),
        ("user", "assistant"),
        ("human", "bot"),
        ("Q", "A"),
        ("prompt", "Completion"),
    ],
)
def test_plain_names_are_found(tmp_path: Path, question: str, answer: str) -> None:
    (found,) = read_chats(write_rows(tmp_path / "x.csv", [{question: "Hi", answer: "Yo", "ID": "1"}]))
    assert found.messages() == [user("Hi"), bob("Yo")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": "question=Frage,answer=Antwrt"},
            "line 1: --columns names 'Antwrt', and .* use 'Antwort'",
        ),
        ({"columns": "question=Frage,answer=zzz"}, "has only 'Frage', 'Antwort', 'Regel', 'Text'"),
        ({"columns": "question=Frage,answer=none"}, "'none' is empty"),
        ({"columns": "question=Frage,answer=list"}, "'list' is no text but a list"),
        ({"text": "{Frag}"}, "line 1: --text names 'Frag', and the row has only 'Frage'.*use 'Frage'"),
        ({"text": "{none}"}, "'none' is empty"),
        ({"columns": "question=Frage,answer=Antwort", "field": "lang"}, "--field names 'lang', and the row"),
        ({"columns": "question=Frage,answer=Antwort", "field": "list"}, "which names no category"),
        ({"columns": "question=Frage,answer=Antwort", "field": "none"}, "'none' is None, which names no cat"),
        (
            {},
            "line 1: there is no list .*the keys 'Frage', .*--columns question=COLUMN,answer=COLUMN, "
            "or --text '{Frage}' for",
        ),
    ],
)
def test_a_column_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_data(write(tmp_path, ROW), DataOptions(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "question"}, "'question' is none of question=COLUMN, answer=COLUMN, system="),
        ({"columns": "frage=x,answer=y"}, "'frage=x' is none of"),
        ({"columns": "question=x"}, "names no answer: write question=COLUMN,answer=COLUMN"),
        ({"columns": "question=a,question=b,answer=c"}, "'question' is there twice"),
        ({"columns": "question=a,answer=b", "text": "{a}"}, "give one of them"),
        ({"text": "Quote"}, "has no column"),
        ({"text": "{quote"}, "expected '}'"),
        ({"text": "{}"}, "a column is written {NAME}"),
        ({"text": "{a:>10}"}, "a column is written {NAME}"),
        ({"text": "{a!r}"}, "a column is written {NAME}"),
        ({"text": " "}, "--text is empty"),
        ({"field": ""}, "--field is empty"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataOptions(**options)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (r"Quote: {quote}\nAuthor: {author}", "Quote: Sea.\nAuthor: Bob"),
        ("Quote: {quote}\nAuthor: {author}", "Quote: Sea.\nAuthor: Bob"),
        (r"{author}\t{tags}", "Bob\tone, two"),
        (r"{{{quote}}} \\n {the year}", r"{Sea.} \n 1999"),
    ],
)
def test_a_template_of_a_plain_text(tmp_path: Path, template: str, text: str) -> None:
    record = {"quote": "Sea.", "author": "Bob", "tags": ["one", "two"], "the year": 1999}
    path = write(tmp_path, record)
    assert read_data(path, DataOptions(text=template, field="author")) == [
        PlainText(text, 1, str(path), "Bob")
    ]


@pytest.mark.parametrize(
    ("record", "advice"),
    [
        (
            {"id": "1", "dialogue": "Hi", "summary": "Yo"},
            "--columns question=dialogue,answer=summary, or --text '{dial",
        ),
        (
            {"Question Text": "Hi", "My answer": "Yo"},
            "--columns 'question=Question Text,answer=My answer', or --text",
        ),
        ({"translation": {"en": "a"}}, "--columns question=COLUMN,answer=COLUMN, or --text '{translation}'"),
        (
            {"id": "1", "joke": "Ha"},
            "--columns question=COLUMN,answer=COLUMN, or --text '{joke}' for plain text",
        ),
    ],
)
def test_the_advice_has_the_columns_that_are_there(tmp_path: Path, record: Any, advice: str) -> None:
    with pytest.raises(InputError) as caught:
        read_data(write(tmp_path, record, record))
    assert advice in str(caught.value) and not caught.value.more


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: its text is empty"):
        read_data(write(tmp_path, {"quote": " "}), DataOptions(text="{quote}"))


def test_english_quotes_and_dolly(tmp_path: Path) -> None:
    quotes = write_rows(tmp_path / "q.jsonl", english_quotes())
    rows = read_data(quotes, DataOptions(text=r"Quote: {quote}\nAuthor: {author}"))
    assert len(rows) == 20
    assert rows[1].content.endswith("larger number is high water. That is way 1.”\nAuthor: Author No. 1")  # type: ignore[union-attr]
    with pytest.raises(InputError, match="in the keys 'quote', 'author', 'tags'"):
        read_data(quotes)
    chats = read_chats(write_rows(tmp_path / "d.jsonl", dolly()))
    assert chats[1].turns[0].content == "How do I read a tide table, try 1?\n\nIt is an old boat."
    assert len(chats) == 20


@pytest.mark.parametrize("name", SEEDS)
def test_each_seed_is_read_from_parquet(tmp_path: Path, name: str) -> None:
    options = DataOptions(text="{quote}" if name.endswith("quotes") else None)
    rows = read_data(write_rows(tmp_path / "x.parquet", SEEDS[name](20)), options)
    assert len(rows) == (4 if name.endswith("oasst1") else 20)
