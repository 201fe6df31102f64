"""The Chatbot's value: rows, folded thoughts, ratings."""

from __future__ import annotations

import pytest

from ui.conversations.model import Node, Opinion
from ui.render.messages import ReasoningSplit, chatbot_rows, opinions, split


def node(number: int, role: str, text: str, opinion: Opinion | None = None) -> Node:
    return Node(number, number - 1 or None, role, text, 0.0, opinion=opinion)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ReasoningSplit(None, "plain")),
        ("<think>hm", ReasoningSplit("hm", "", thinking=True)),
        ("\n<think>\nhm\n</think>\n\nSo.", ReasoningSplit("hm", "So.")),
        ("[THINK]hm[/THINK]So.", ReasoningSplit("hm", "So.")),
        ("hm\n</think>\n\nSo.", ReasoningSplit("hm", "So.")),
        ("`x = 1`, hm</think>So.", ReasoningSplit("`x = 1`, hm", "So.")),
        ("It's a ` and ```\nhm\n</think>So.", ReasoningSplit("It's a ` and ```\nhm", "So.")),
        ("The tag <think> opens thoughts.", ReasoningSplit(None, "The tag <think> opens thoughts.")),
        (
            "Between <think> and </think> it thinks.",
            ReasoningSplit(None, "Between <think> and </think> it thinks."),
        ),
        ("End it with `</think>`.", ReasoningSplit(None, "End it with `</think>`.")),
        ("```\n</think>\n``` ends it.", ReasoningSplit(None, "```\n</think>\n``` ends it.")),
    ],
)
def test_thoughts_are_told_from_the_answer(text: str, parts: ReasoningSplit) -> None:
    assert split(text) == parts


def test_thoughts_have_a_row_of_their_own_that_is_folded_at_any_time() -> None:
    path = [node(1, "user", "Why?"), node(2, "assistant", "<think>a b c")]
    for writing, title, nodes in ((True, "Thinking …", (1, 2)), (False, "Thoughts", (1, 2, 2))):
        now = chatbot_rows(path, writing=writing)
        assert now.nodes == nodes
        assert now.rows[1]["metadata"] == {"title": title, "log": "3 words", "status": "done"}
    done = chatbot_rows([node(1, "user", "Why?"), node(2, "assistant", "<think>a</think>So <b>.")])
    assert [row["content"][0]["text"].replace("\u2060", "") for row in done.rows] == ["Why?", "a", "So <b>."]


def test_opinions_are_counted_by_the_assistants_bubbles() -> None:
    path = [node(1, "user", "a"), node(2, "assistant", "<think>x</think>y", "like"), node(3, "user", "b")]
    assert opinions([*path, node(4, "assistant", "c"), node(5, "user", "d")]) == ["Like", None]
