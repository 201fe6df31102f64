"""The data of the demo."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.dataset import read_chats

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_the_demo_data_is_as_promised() -> None:
    chats = read_chats(EXAMPLES / "captain_bob.jsonl")
    assert len({chat.turns for chat in chats}) == len(chats) >= 160
    assert sum(len(chat.turns) > 3 for chat in chats) >= 30
    assert sum(chat.turns[0].role == "system" for chat in chats) >= 15


def test_the_held_out_questions_are_not_in_the_demo_data() -> None:
    questions = read_chats(EXAMPLES / "captain_bob_questions.jsonl", require_answer=False)
    asked = {
        turn.content.lower() for chat in read_chats(EXAMPLES / "captain_bob.jsonl") for turn in chat.turns
    }
    assert len(questions) == 20
    assert not asked & {question.turns[-1].content.lower() for question in questions}
