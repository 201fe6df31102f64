from __future__ import annotations

import pytest

from common.text import all_of, and_more, counted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (counted(1, "step"), "1 step"),
        (counted(0, "step"), "0 steps"),
        (counted(2, "chat was", "chats were"), "2 chats were"),
        (counted(1, "of 272 tensors differs", "of 272 tensors differ"), "1 of 272 tensors differs"),
        (all_of(1, "number is that", "numbers are those"), "The one number is that"),
        (all_of(5, "number is that", "numbers are those"), "All 5 numbers are those"),
        (and_more(0, "token"), ""),
        (and_more(1, "token"), " and 1 more token"),
        (and_more(2, "token"), " and 2 more tokens"),
    ],
)
def test_one_is_no_plural(said: str, wanted: str) -> None:
    assert said == wanted
