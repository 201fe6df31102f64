"""Export to JSON and Markdown, and import of hostile files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.conversations.database import Conversation
from ui.conversations.json_transfer import TransferError, from_json, to_json
from ui.conversations.markdown import to_markdown
from ui.conversations.model import INTERRUPTED, GenerationInfo, Node, Tree, title_of
from ui.conversations.store import Store

MADE = GenerationInfo(
    "Bob", "ab" * 32, "Q4_K_M", "Be brief.", {"top_k": 40, "seed": None}, "length", 9, 3, 6, 0.25, 1.5, 2
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNT = st.integers(0, 2**53 - 1)
SECONDS = st.floats(0, 2**39)
SETTING = (
    st.none() | st.booleans() | COUNT | st.floats(allow_nan=False, allow_infinity=False) | st.lists(TEXT)
)
GENERATIONS = st.builds(
    GenerationInfo,
    model=TEXT,
    model_hash=TEXT,
    quantization=TEXT,
    system_prompt=TEXT,
    sampling=st.dictionaries(TEXT, SETTING | TEXT, max_size=3),
    reason=st.sampled_from(["stop", "length", "time", "cancelled", "error", "interrupted"]),
    prompt_tokens=COUNT,
    cached_tokens=COUNT,
    generated_tokens=COUNT,
    first_text_seconds=st.none() | SECONDS,
    decode_seconds=st.none() | SECONDS,
    dropped_messages=COUNT,
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Conversations of any tree shape; their ids ascend, with gaps."""
    ids = sorted(draw(st.sets(st.integers(1, 99), max_size=8)))
    nodes: dict[int, Node] = {}
    for number, node_id in enumerate(ids):
        parent = draw(st.sampled_from([None, *ids[:number]]))
        role = "user" if parent is None else draw(st.sampled_from(["user", "assistant"]))
        made = draw(GENERATIONS) if role == "assistant" else None
        opinion = draw(st.sampled_from([None, "like", "dislike"]))
        nodes[node_id] = Node(node_id, parent, role, draw(TEXT), draw(SECONDS), made, opinion, draw(TEXT))
    tree = Tree(nodes, draw(st.sampled_from([None, *ids])))
    title, folder = title_of(draw(TEXT)), title_of(draw(TEXT))
    return Conversation("", title, draw(st.booleans()), draw(SECONDS), draw(SECONDS), tree, folder)


def numbered(conversation: Conversation) -> Conversation:
    """Return the conversation with ids 1, 2, 3 ..., so that two copies can be compared."""
    tree = conversation.tree
    new: dict[int | None, Any] = {None: None}
    new |= {old: number for number, old in enumerate(sorted(tree.nodes), 1)}
    nodes = {
        new[key]: replace(node, id=new[key], parent=new[node.parent]) for key, node in tree.nodes.items()
    }
    return replace(conversation, id="", tree=Tree(nodes, new[tree.leaf]))


@given(st.lists(conversations(), max_size=3))
def test_a_file_gives_back_the_very_conversations(made: list[Conversation]) -> None:
    assert from_json(to_json(made)) == [numbered(conversation) for conversation in made]


@given(conversations())
def test_the_store_takes_in_what_a_file_gives(made: Conversation) -> None:
    store = Store()
    (read,) = from_json(to_json([made]))
    assert numbered(store.load("me", *store.insert("me", [read]))) == numbered(made)
    store.close()


def small() -> dict[str, Any]:
    nodes = {
        1: Node(1, None, "user", "Why?", 1.0),
        2: Node(2, 1, "assistant", "So.", 2.0, MADE, "dislike", "too\nshort"),
        3: Node(3, 1, "assistant", "Thus.", 3.0, MADE),
    }
    whole = Conversation("x", "Why?", False, 1.0, 2.0, Tree(nodes, 2))
    return dict(json.loads(to_json([whole])))


def renumber(file: dict[str, Any]) -> None:
    """Give the question a larger id than its answers, which still come after it."""
    question, *answers = first(file)["messages"]
    question["id"] = 7
    for answer in answers:
        answer["parent"] = 7


Change = Callable[[dict[str, Any]], object]
HOSTILE: dict[str, Change] = {
    r"format: .*'gguf-chat'": lambda file: file.update(format="other"),
    "another version of the format": lambda file: file.update(version=2),
    "extra: Extra": lambda file: file.update(extra=1),
    "two messages have the id 1": lambda file: first(file)["messages"][1].update(id=1),
    "message 2 hangs on 3, which is no earlier": lambda file: first(file)["messages"][1].update(parent=3),
    "message 2 hangs on 2, which is no earlier": lambda file: first(file)["messages"][1].update(parent=2),
    "message 2 hangs on 7, which has the larger id": renumber,
    "message 2 is an answer to nothing": lambda file: first(file)["messages"][1].update(parent=None),
    "is a question and says how": lambda file: first(file)["messages"][0].update(made=made(file)),
    "its leaf is 9": lambda file: first(file).update(leaf=9),
    "role: .*'user' or 'assistant'": lambda file: first(file)["messages"][0].update(role="system"),
    "text: .*valid string": lambda file: first(file)["messages"][0].update(text=7),
    "text: .*at most 1000000": lambda file: first(file)["messages"][0].update(text="x" * 1_000_001),
    "created: .*finite": lambda file: first(file)["messages"][0].update(created=float("nan")),
    "sampling.top_k: a setting is a finite number": lambda file: made(file)["sampling"].update(
        top_k=float("inf")
    ),
    "sampling.deep: a setting is": lambda file: made(file)["sampling"].update(deep={"a": 1}),
    "prompt_tokens: .*greater": lambda file: made(file).update(prompt_tokens=-1),
    "reason: ": lambda file: made(file).update(reason="<script>"),
    "folder: .*valid string": lambda file: first(file).update(folder=None),
    "pinned: .*valid boolean": lambda file: first(file).update(pinned="yes"),
    "messages: .*at most 20000": lambda file: first(file).update(messages=first(file)["messages"] * 10_000),
}


def test_a_folder_is_an_optional_field() -> None:
    old = small()
    assert "folder" not in first(old)
    first(old)["folder"] = "Ships\n"
    (read,) = from_json(json.dumps(old))
    assert read.folder == "Ships"
    assert first(json.loads(to_json([read])))["folder"] == "Ships"


def first(file: dict[str, Any]) -> dict[str, Any]:
    return dict.__getitem__(file, "conversations")[0]  # type: ignore[no-any-return]


def made(file: dict[str, Any]) -> dict[str, Any]:
    return first(file)["messages"][1]["made"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("why", HOSTILE)
def test_a_file_that_is_not_right_in_all_is_refused(why: str) -> None:
    file = small()
    assert len(from_json(json.dumps(file))[0].tree.nodes) == 3
    HOSTILE[why](file)
    with pytest.raises(TransferError, match=why) as refused:
        from_json(json.dumps(file))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        "[" * 100_000,
        '{"format":' * 50_000,
        "9" * 100_000,
        "[]",
        json.dumps(small()).replace("Why?", "\\ud800"),
        json.dumps(small() | {"a\nb" * 1000: 1}),
    ],
    ids=[
        "empty",
        "not-text",
        "deep",
        "deep-keys",
        "long-number",
        "list",
        "half-a-character",
        "odd-name",
    ],
)
def test_what_is_no_such_file_is_refused_in_one_line(data: str | bytes) -> None:
    with pytest.raises(TransferError) as refused:
        from_json(data)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_an_answer_without_its_making_was_cut() -> None:
    file = small()
    first(file)["messages"][1]["made"] = None
    assert from_json(json.dumps(file))[0].tree.nodes[2].made == INTERRUPTED


def test_markdown_reads_well() -> None:
    assert to_markdown(from_json(json.dumps(small()))) == (
        "# Why?\n\n1970-01-01 00:00 UTC\n\n## You\n\nWhy?\n\n## Bob (1 of 2)\n\nSo.\n\n"
        "_Q4_K_M · 6 tokens · 4.0 tokens/s · first word after 0.25 s · cut at the length limit · top_k 40"
        " · SHA-256 abababababab_\n\n> dislike · too short\n"
    )
