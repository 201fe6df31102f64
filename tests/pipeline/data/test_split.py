"""The split into training and held-out rows."""

from __future__ import annotations

import pytest

from pipeline.data.dataset import split_chats
from pipeline.errors import InputError
from tests.pipeline.data.chats import bob, chat, user


def test_split_is_seeded_and_keeps_copies_together() -> None:
    chats = [chat(user(f"Question {number % 20}"), bob("Aye"), line=number + 1) for number in range(40)]
    train, held = split_chats(chats, 0.25, seed=7)
    assert split_chats(chats, 0.25, seed=7) == (train, held)
    assert split_chats(chats, 0.25, seed=8) != (train, held)
    assert len(held) == 10  # 5 of 20 different chats, two copies of each
    assert sorted(chat.line for chat in train + held) == list(range(1, 41))
    assert not {chat.turns for chat in train} & {chat.turns for chat in held}


def test_split_edges() -> None:
    chats = [chat(user(f"Question {number}"), bob("Aye")) for number in range(3)]
    assert split_chats(chats, 0.0, seed=1) == (chats, [])
    assert len(split_chats(chats, 0.01, seed=1)[1]) == 1
    with pytest.raises(InputError, match="too few"):
        split_chats(chats[:1], 0.1, seed=1)
