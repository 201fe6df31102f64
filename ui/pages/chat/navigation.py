"""The state of a conversation in a tab, and its actions: each returns the state to show next.

Only deleting loses anything: an edit and a second answer are branches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import RequestError
from ui.conversations.model import EDITED, Node, Opinion, Tree
from ui.conversations.store import NotFound, Store

MAX_CHARACTERS = 1_000_000  # characters of a question, the same limit as an import file's (json_transfer.py)


@dataclass(frozen=True)
class TabView:
    """What a tab shows: the conversation `key` ("": none yet) down to `leaf`.

    The leaf is the tab's, so that two tabs with the same conversation write to branches of it.
    """

    key: str = ""
    leaf: int | None = None


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

    def message(self, node: int) -> Node:
        """Return a message that is shown. Raises NotFound."""
        found = next((shown for shown in self.path if shown.id == node), None)
        if found is None:
            raise NotFound("this message is not there (any more)")
        return found

    def view_at(self, leaf: int | None) -> ConversationState:
        """Return the same conversation down to another message."""
        return replace(self, view=TabView(self.view.key, leaf), tree=Tree(self.tree.nodes, leaf))

    def select(self, leaf: int | None) -> ConversationState:
        """Like `view_at`, and save the leaf in the store."""
        self.store.select(self.owner, self.view.key, leaf)
        return self.view_at(leaf)

    def with_answer(self, answer: Node) -> ConversationState:
        """Return the state with an answer under way as it is now; one without text is not shown."""
        there = replace(self, tree=Tree({**self.tree.nodes, answer.id: answer}, self.view.leaf))
        return there.view_at(answer.id if answer.text.strip() else answer.parent)

    def before(self, node: int) -> ConversationState:
        """Return the state without a message and what is below it; all of it if the message is not shown."""
        shown = next((found for found in self.path if found.id == node), None)
        return self if shown is None else self.view_at(shown.parent)

    def regenerate(self, node: int | None = None) -> ConversationState:
        """Return the state before an answer, by default the last one, from which another one is generated.

        Raises NotFound.
        """
        answer = self.last if node is None else self.message(node)
        return self.view_at(answer.parent) if answer is not None and answer.role == "assistant" else self

    def ask(self, text: str, parent: int | None) -> ConversationState:
        """Add a question below `parent`, creating the conversation if needed. Raises RequestError."""
        _check(text)
        key = self.view.key or self.store.create(self.owner)
        asked = self.store.add(self.owner, key, parent, "user", text)
        return open_conversation(self.store, self.owner, TabView(key, asked))

    def edit(self, node: int, text: str) -> ConversationState:
        """Add another version of a question or an answer. Raises NotFound, RequestError."""
        edited = self.message(node)
        if edited.role == "user":
            return self.ask(text, edited.parent)
        _check(text)
        key = self.view.key
        added = self.store.add(self.owner, key, edited.parent, "assistant", text, made=EDITED)
        return open_conversation(self.store, self.owner, TabView(key, added))

    def undo(self, node: int | None = None) -> tuple[ConversationState, str]:
        """Return the state before a question, by default the last one, and the question.

        `redo` shows it again. Raises NotFound.
        """
        path = self.path if node is None else self.path[: self.path.index(self.message(node)) + 1]
        for question in reversed(path):
            if question.role == "user":
                return self.select(question.parent), question.text
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

    def delete(self, node: int) -> tuple[ConversationState, Deleted]:
        """Delete a message and everything below it, in all branches; return what `restore` brings back.

        Raises NotFound.
        """
        self.message(node)
        nodes = self.store.delete_subtree(self.owner, self.view.key, node)
        after = open_conversation(self.store, self.owner, self.view)
        return after, Deleted(self.view.key, nodes, self.view.leaf)

    def restore(self, deleted: Deleted) -> ConversationState:
        """Bring back deleted messages. Raises NotFound if the message above them is gone as well."""
        self.store.restore_messages(self.owner, deleted.key, deleted.nodes, deleted.leaf)
        return open_conversation(self.store, self.owner, TabView(deleted.key, deleted.leaf))

    def switch(self, node: int) -> ConversationState:
        """Show another version of a message, down to the newest message below it. Raises NotFound."""
        versions = {other for shown in self.path for other in self.tree.versions(shown.id)}
        if node not in versions:
            raise NotFound("this version is not there (any more)")
        return self.select(self.tree.latest_leaf(node))

    def rate(self, node: int, opinion: Opinion | None, note: str) -> ConversationState:
        """Save the rating of an answer, with a note. Raises NotFound."""
        self.store.rate(self.owner, self.view.key, node, opinion, note)
        return open_conversation(self.store, self.owner, self.view)


@dataclass(frozen=True)
class Deleted:
    """Messages that were deleted from the conversation `key`, parents first, and the leaf shown before."""

    key: str
    nodes: tuple[Node, ...]
    leaf: int | None


def _check(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise RequestError(f"the message has {len(text):,} characters: at most {MAX_CHARACTERS:,} are taken")


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
