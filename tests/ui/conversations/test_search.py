"""The words of a search: where they are in a text, and the excerpt around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.conversations.search import MAX_EXCERPT, contains, excerpt, marked


@pytest.mark.parametrize(
    ("text", "words", "parts"),
    [
        ("Why is the sky blue?", "sky", ["Why is the ", "sky", " blue?"]),
        ("SKY sky", "sky", ["", "SKY", " ", "sky", ""]),
        ("Straße", "strasse", ["", "Straße", ""]),
        ("Große Straßen", "ss", ["Gro", "ß", "e Stra", "ß", "en"]),
        ("aaa", "aa a", ["", "aaa", ""]),
        ("İstanbul", "istanbul", ["İstanbul"]),  # folds to i and a dot above
        ("a.c abc", "a.c", ["", "a.c", " abc"]),
        ("猫が好き", "猫 好", ["", "猫", "が", "好", "き"]),
        ("👩‍🚀 go", "go", ["👩‍🚀 ", "go", ""]),
        ("", "x", [""]),
        ("text", "", ["text"]),
    ],
)
def test_words_are_marked_in_the_original_text(text: str, words: str, parts: list[str]) -> None:
    assert marked(text, words) == parts


@given(st.text(max_size=60), st.text(min_size=1, max_size=3))
def test_marks_lose_nothing_and_are_where_the_words_are(text: str, word: str) -> None:
    words = " ".join(word.split()).casefold()
    parts = marked(text, words)
    assert "".join(parts) == text and len(parts) % 2 == 1
    assert (len(parts) > 1) == any(part in text.casefold() for part in words.split())


def test_an_excerpt_begins_shortly_before_the_first_word() -> None:
    text = f"{'before ' * 50}\n\n the  Needle\tand {'after ' * 50}"
    line = excerpt(text, "after needle")
    assert line.startswith("…before the Needle and after") and line.endswith("…")
    assert len(line) <= MAX_EXCERPT and contains(line, "needle")
    assert excerpt("short  needle", "needle") == "short needle"
    assert excerpt(f"{'ß' * 100}needle", "needle") == f"…{'ß' * 16}needle"


@given(st.text(max_size=600), st.text(min_size=1, max_size=4))
def test_an_excerpt_is_one_short_line(text: str, word: str) -> None:
    line = excerpt(text, word.casefold())
    assert len(line) <= MAX_EXCERPT and len(line.splitlines()) <= 1
