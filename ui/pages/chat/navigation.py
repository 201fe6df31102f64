"""The state of a conversation in a tab, and its actions: each returns the state to show next.

Only deleting loses anything: an edit and a second answer are branches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import RequestError
from ui.conversations.model import Node, Opinion, Tree
from ui.conversations.store import NotFound, Store
from ui.render.messages import chatbot_rows

MAX_CHARACTERS = 1_000_000  # characters of a question, the same limit as an import file's (json_transfer.py)


@dataclass(frozen=True)
class TabView:
    """What a tab shows: the conversation `key` ("": none yet) down to `leaf`, and the message `marked`.

    The leaf is the tab's, so that two tabs with the same conversation write to branches of it.
    """

    key: str = ""
    leaf: int | None = None
    marked: int | None = None


@dataclass(frozen=True)
class ConversationState:
    """A view with its messages. An action raises NotFound when another tab has deleted them."""

    store: Store
    owner: str
    view: TabView
    tree: Tree

    @property
    def path(self) -> list[Node]:
        """The messages shown, the first one first."""
        return self.tree.path()

    @property
    def last(self) -> Node | None:
        """The last message shown."""
        return self.tree.nodes[self.tree.leaf] if self.tree.leaf is not None else None

    def message_at(self, index: int) -> Node:
        """Return the message of a Chatbot's row. Raises NotFound."""
        nodes = chatbot_rows(self.path).nodes
        if not 0 <= index < len(nodes):
            raise NotFound("this message is not there (any more)")
        return self.tree.nodes[nodes[index]]

    def view_at(self, leaf: int | None, marked: int | None = None) -> ConversationState:
        """Return the same conversation down to another message."""
        view = TabView(self.view.key, leaf, marked)
        return replace(self, view=view, tree=Tree(self.tree.nodes, leaf))

    def select(self, leaf: int | None, marked: int | None = None) -> ConversationState:
        """Like `view_at`, and save the leaf in the store."""
        self.store.select(self.owner, self.view.key, leaf)
        return self.view_at(leaf, marked)

    def with_answer(self, answer: Node) -> ConversationState:
        """Return the state with an answer under way as it is now; one without text is not shown."""
        there = replace(self, tree=Tree({**self.tree.nodes, answer.id: answer}, self.view.leaf))
        return there.view_at(answer.id if answer.text.strip() else answer.parent)

    def regenerate(self) -> ConversationState:
        """Return the state before the last answer, from which another one is generated."""
        last = self.last
        return self.view_at(last.parent) if last is not None and last.role == "assistant" else self

    @property
    def marked(self) -> Node | None:
        """The message that was clicked, if it is shown."""
        return next((node for node in self.path if node.id == self.view.marked), None)

    def mark(self, index: int) -> ConversationState:
        """Mark the message of a row; unmark it when it is marked already."""
        node = self.message_at(index).id
        return replace(self, view=replace(self.view, marked=None if node == self.view.marked else node))

    def ask(self, text: str, parent: int | None) -> ConversationState:
        """Add a question below `parent`, creating the conversation if needed. Raises RequestError."""
        if len(text) > MAX_CHARACTERS:
            raise RequestError(
                f"the message has {len(text):,} characters: at most {MAX_CHARACTERS:,} are taken"
            )
        key = self.view.key or self.store.create(self.owner)
        asked = self.store.add(self.owner, key, parent, "user", text)
        return open_conversation(self.store, self.owner, TabView(key, asked))

    def undo(self) -> tuple[ConversationState, str]:
        """Return the state before the last question, and the question, which `redo` shows again."""
        for node in reversed(self.path):
            if node.role == "user":
                return self.select(node.parent), node.text
        return self, ""

    @property
    def redoable(self) -> int | None:
        """The newest message below the last one shown, after an undo."""
        below = self.tree.children.get(self.tree.leaf, [])
        return below[-1] if below else None

    def redo(self) -> ConversationState:
        """Show again what an undo has hidden."""
        return self if self.redoable is None else self.select(self.tree.latest_leaf(self.redoable))

    def discard(self, asked: ConversationState) -> ConversationState:
        """Remove the question that `asked` has added, since it could not be answered; return this state.

        What another tab has written since then stays: messages below the question keep the question, and
        any other message keeps the conversation.
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

    def delete_marked(self) -> ConversationState:
        """Delete the marked message and everything below it, in all branches."""
        if self.marked is None:
            return self
        self.store.delete_subtree(self.owner, self.view.key, self.marked.id)
        return open_conversation(self.store, self.owner, TabView(self.view.key, self.view.leaf))

    @property
    def versions(self) -> tuple[int, list[int]] | None:
        """The marked message, or else the last one with versions, and the ids of its versions."""
        about = [self.marked] if self.marked is not None else self.path[::-1]
        for node in about:
            if len(found := self.tree.versions(node.id)) > 1:
                return node.id, found
        return None

    def switch_branch(self, step: int) -> ConversationState:
        """Show the version before (-1) or after (1) the one in `versions`."""
        if self.versions is None:
            return self
        node, ids = self.versions
        there = ids[max(0, min(len(ids) - 1, ids.index(node) + step))]
        return self.select(self.tree.latest_leaf(there), there)

    def rate(self, node: int, opinion: Opinion | None, note: str) -> ConversationState:
        """Save the rating of an answer, with a note."""
        self.store.rate(self.owner, self.view.key, node, opinion, note)
        return open_conversation(self.store, self.owner, replace(self.view, marked=node))


def open_conversation(store: Store, owner: str, view: TabView) -> ConversationState:
    """Return the state of a view, at the store's leaf if its own was deleted. Raises NotFound."""
    if not view.key:
        return ConversationState(store, owner, TabView(), Tree({}, None))
    tree = store.load(owner, view.key).tree
    if view.leaf is not None and view.leaf not in tree.nodes:
        view = TabView(view.key, tree.leaf)
    return ConversationState(store, owner, view, Tree(tree.nodes, view.leaf))


def restore_conversation(store: Store, owner: str, key: str) -> ConversationState:
    """Return a conversation at the leaf that was saved last. Raises NotFound."""
    if not key:
        return open_conversation(store, owner, TabView())
    return open_conversation(store, owner, TabView(key, store.load(owner, key).tree.leaf))
