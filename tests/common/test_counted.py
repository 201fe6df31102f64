from __future__ import annotations

import pytest

from common.text import all_of_them, and_more, pluralize


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (pluralize(1, "step"), "1 step"),
        (pluralize(0, "step"), "0 steps"),
        (pluralize(2, "chat was", "chats were"), "2 chats were"),
        (pluralize(1, "of 272 tensors differs", "of 272 tensors differ"), "1 of 272 tensors differs"),
        (all_of_them(1, "number is that", "numbers are those"), "The one number is that"),
        (all_of_them(5, "number is that", "numbers are those"), "All 5 numbers are those"),
        (and_more(0, "token"), ""),
        (and_more(1, "token"), " and 1 more token"),
        (and_more(2, "token"), " and 2 more tokens"),
    ],
)
def test_one_is_no_plural(text: str, wanted: str) -> None:
    assert text == wanted
