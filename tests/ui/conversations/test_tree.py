"""Paths, versions and subtrees of a conversation."""

from __future__ import annotations

from ui.conversations.model import Node, Tree


def tree(leaf: int | None, **parents: int | None) -> Tree:
    """Return a tree: `n2=1` makes message 2 a child of message 1."""
    items = {int(name[1:]): parent for name, parent in parents.items()}
    return Tree({key: Node(key, parent, "user", str(key), 0.0) for key, parent in items.items()}, leaf)


# 1 ─ 2 ─ 3 ─ 6      3 was edited to 5, then 3's branch was continued by 6; 4 is a second answer to 1
#   │   └ 5
#   └ 4
BRANCHED = tree(6, n1=None, n2=1, n3=2, n4=1, n5=2, n6=3)


def test_the_path_runs_from_the_beginning_to_the_leaf() -> None:
    assert [node.id for node in BRANCHED.path()] == [1, 2, 3, 6]
    assert [node.id for node in Tree(BRANCHED.nodes, 2).path()] == [1, 2]
    assert Tree(BRANCHED.nodes, None).path() == []


def test_versions_are_siblings_oldest_first() -> None:
    assert BRANCHED.versions(5) == BRANCHED.versions(3) == [3, 5]
    assert BRANCHED.versions(4) == [2, 4]
    assert BRANCHED.versions(1) == [1]
    assert tree(None, n1=None, n2=None).versions(2) == [1, 2]  # an edited first question


def test_a_tip_is_the_youngest_leaf_below() -> None:
    assert [BRANCHED.latest_leaf(node) for node in (1, 2, 3, 4, 5, 6)] == [6, 6, 6, 4, 5, 6]


def test_a_conversation_may_be_deeper_than_python_recurses() -> None:
    deep = Tree({key: Node(key, key - 1 or None, "user", "", 0.0) for key in range(1, 5000)}, 4999)
    assert deep.latest_leaf(1) == 4999 and len(deep.path()) == len(deep.subtree(1)) == 4999
