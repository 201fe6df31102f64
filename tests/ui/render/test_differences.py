from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.render.tables import marked, pieces

TEXTS = st.text(alphabet="ab \n<&", max_size=40)


@pytest.mark.parametrize(
    ("reference", "text", "html"),
    [
        ("the sky is blue", "the sky is blue", "the sky is blue"),
        ("the sky is blue", "the sea is deep blue", "the <mark>sea</mark> is <mark>deep</mark> blue"),
        ("the sky is blue", "the\nsky blue", "the\nsky blue"),
        ("", "new words", "<mark>new words</mark>"),
        ("old words", "", ""),
        ("a", "<script>x</script> a", "<mark>&lt;script&gt;x&lt;/script&gt;</mark> a"),
        ("<b>", "<b> ", "&lt;b&gt; "),
    ],
)
def test_words_that_differ_are_marked(reference: str, text: str, html: str) -> None:
    assert marked(reference, text) == html


@given(TEXTS, TEXTS)
def test_nothing_is_lost_and_nothing_gets_out(reference: str, text: str) -> None:
    assert "".join(part for part, _ in pieces(reference, text)) == text
    assert "<" not in marked(reference, text).replace("<mark>", "").replace("</mark>", "")


def test_a_model_that_repeats_itself_holds_up_nobody() -> None:
    start = time.process_time()
    pieces("so " * 2900 + "x", "y so " * 1400)
    pieces("a b " * 100_000, "b a " * 100_000)
    assert time.process_time() - start < 5
