"""What a person can do with a conversation: each action takes what a tab shows, and gives what it shows next.

Nothing is lost but what is deleted: an edit and a second answer are branches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import RequestError
from ui.conversations.model import Node, Opinion, Tree
from ui.conversations.store import NotFound, Store
from ui.render.messages import chatbot_rows

LONGEST = 1_000_000  # characters of a question, the same limit as an import file's (json_transfer.py)


@dataclass(frozen=True)
class TabView:
    """What one tab shows: the conversation `key` ("": none yet) down to `leaf`, and the message clicked last.

    Each tab has a leaf of its own, so that two tabs with the same conversation write branches of it.
    """

    key: str = ""
    leaf: int | None = None
    marked: int | None = None


@dataclass(frozen=True)
class ConversationState:
    """A view with its messages. Raises Unknown at the first action when somebody else deleted them."""

    store: Store
    owner: str
    view: TabView
    tree: Tree

    @property
    def path(self) -> list[Node]:
        """The messages shown."""
        return self.tree.path()

    @property
    def last(self) -> Node | None:
        """The message shown last."""
        return self.tree.nodes[self.tree.leaf] if self.tree.leaf is not None else None

    def row(self, index: int) -> Node:
        """The message of one of the Chatbot's rows; raises Unknown."""
        nodes = chatbot_rows(self.path).nodes
        if not 0 <= index < len(nodes):
            raise NotFound("this message is not there (any more)")
        return self.tree.nodes[nodes[index]]

    def to(self, leaf: int | None, marked: int | None = None) -> ConversationState:
        """The same conversation down to another message."""
        view = TabView(self.view.key, leaf, marked)
        return replace(self, view=view, tree=Tree(self.tree.nodes, leaf))

    def at(self, leaf: int | None, marked: int | None = None) -> ConversationState:
        """As `to`, and the store remembers it."""
        self.store.select(self.owner, self.view.key, leaf)
        return self.to(leaf, marked)

    def again(self) -> ConversationState:
        """Where the last answer begins, to give another one; nothing else changes when there is none."""
        last = self.last
        return self.to(last.parent) if last is not None and last.role == "assistant" else self

    @property
    def marked(self) -> Node | None:
        """The message that was clicked, as long as it is shown."""
        return next((node for node in self.path if node.id == self.view.marked), None)

    def mark(self, index: int) -> ConversationState:
        """With the message of a row marked, or none when it is marked already."""
        node = self.row(index).id
        return replace(self, view=replace(self.view, marked=None if node == self.view.marked else node))

    def ask(self, text: str, parent: int | None) -> ConversationState:
        """A question below `parent`; the first one makes the conversation. Raises RequestError."""
        if len(text) > LONGEST:
            raise RequestError(f"the message has {len(text):,} characters: at most {LONGEST:,} are taken")
        key = self.view.key or self.store.create(self.owner)
        asked = self.store.add(self.owner, key, parent, "user", text)
        return open_conversation(self.store, self.owner, TabView(key, asked))

    def undo(self) -> tuple[ConversationState, str]:
        """Before the last question, and that question; it stays, as what `redo` shows again."""
        for node in reversed(self.path):
            if node.role == "user":
                return self.at(node.parent), node.text
        return self, ""

    @property
    def redoable(self) -> int | None:
        """The youngest message below the last one shown, after an undo."""
        below = self.tree.children.get(self.tree.leaf, [])
        return below[-1] if below else None

    def redo(self) -> ConversationState:
        """What an undo took back."""
        return self if self.redoable is None else self.at(self.tree.latest_leaf(self.redoable))

    def forget(self, asked: ConversationState) -> ConversationState:
        """Here again, without the question that `asked` has added: it could not be answered.

        What another tab has written meanwhile stays: what is below the question keeps it, and any other
        message keeps the chat.
        """
        question = asked.last
        if question is None or question.id in self.tree.nodes:
            return self
        now = self.store.load(self.owner, asked.view.key).tree
        if question.id in now.nodes and not now.children.get(question.id):
            self.store.delete_subtree(self.owner, asked.view.key, question.id)
            if self.view.key and now.leaf == question.id:
                self.store.select(self.owner, asked.view.key, self.view.leaf)
        if not self.view.key and now.nodes.keys() <= {question.id}:
            self.store.delete(self.owner, asked.view.key)
        return self

    def cut_marked(self) -> ConversationState:
        """Without the message that was clicked and all below it, in all branches."""
        if self.marked is None:
            return self
        self.store.delete_subtree(self.owner, self.view.key, self.marked.id)
        return open_conversation(self.store, self.owner, TabView(self.view.key, self.view.leaf))

    @property
    def versions(self) -> tuple[int, list[int]] | None:
        """The message that was clicked, or else the last one with versions, and the ids of its versions."""
        about = [self.marked] if self.marked is not None else self.path[::-1]
        for node in about:
            if len(found := self.tree.versions(node.id)) > 1:
                return node.id, found
        return None

    def turn(self, step: int) -> ConversationState:
        """The version before (-1) or after (1) the one that `versions` names."""
        if self.versions is None:
            return self
        node, ids = self.versions
        there = ids[max(0, min(len(ids) - 1, ids.index(node) + step))]
        return self.at(self.tree.latest_leaf(there), there)

    def judge(self, node: int, opinion: Opinion | None, note: str) -> ConversationState:
        """Keep an opinion on an answer."""
        self.store.rate(self.owner, self.view.key, node, opinion, note)
        return open_conversation(self.store, self.owner, replace(self.view, marked=node))


def open_conversation(store: Store, owner: str, view: TabView) -> ConversationState:
    """The place that a view shows; where its leaf was deleted, what the store shows. Raises Unknown."""
    if not view.key:
        return ConversationState(store, owner, TabView(), Tree({}, None))
    tree = store.load(owner, view.key).tree
    if view.leaf is not None and view.leaf not in tree.nodes:
        view = TabView(view.key, tree.leaf)
    return ConversationState(store, owner, view, Tree(tree.nodes, view.leaf))


def restore_conversation(store: Store, owner: str, key: str) -> ConversationState:
    """A conversation as it was left; raises Unknown."""
    if not key:
        return open_conversation(store, owner, TabView())
    return open_conversation(store, owner, TabView(key, store.load(owner, key).tree.leaf))
