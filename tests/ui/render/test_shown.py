"""What the page's script gets of a message: its text, thoughts, statistics and versions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ui.conversations.model import GenerationInfo, Node, Opinion, Tree
from ui.i18n.words import ENGLISH
from ui.render.message_items import message_item, message_items
from ui.render.messages import ReasoningSplit, split


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


def test_thoughts_are_an_items_own() -> None:
    answer = node(2, "assistant", "<think>a b c")
    for writing in (True, False):
        item = message_item(answer, ENGLISH, writing=writing)
        assert (item["thoughts"], item["text"], item["thinking"]) == ("a b c", "", writing)
        assert item["thought_words"] == "3 words"
    done = message_item(node(2, "assistant", "<think>a</think>So <b>."), ENGLISH)
    assert (done["thoughts"], done["text"], done["edited"]) == ("a", "So <b>.", "<think>a</think>So <b>.")
    assert message_item(node(1, "user", "<think>why?"), ENGLISH)["text"] == "<think>why?"


def test_an_item_says_how_its_answer_was_made() -> None:
    settings = {"temperature": 0.5, "top_k": 40, "mirostat": 0, "xtc_probability": 0.2}
    made = GenerationInfo("m", "abc" * 9, "Q4_0", "Be brief.", settings, "length", 90, 30, 5, 0.2, 1.0)
    item = message_item(replace(node(2, "assistant", "x"), made=made), ENGLISH)
    assert item["cut"] and "5 tokens" in item["stats"]
    assert item["details"] == [
        ("Model", "m · Q4_0 · abcabcabcabc"),
        ("Prompt", "90 tokens, 30 of them from the cache"),
        ("System prompt", "Be brief."),
        ("Settings", "temperature 0.5, top_k 40, xtc_probability 0.2"),
    ]


def test_items_know_their_versions() -> None:
    nodes = {n.id: n for n in (node(1, "user", "a"), node(2, "assistant", "b", "like"))}
    nodes[3] = replace(nodes[2], id=3, text="c")
    tree = Tree(nodes, 3)
    first, second = message_items(tree.path(), tree, ENGLISH, asking=3)
    assert (first["versions"], second["versions"]) == ([1], [2, 3])
    assert (first["ask_note"], second["ask_note"]) == (False, True) and second["opinion"] == "like"
