"""The actions on a conversation, with a real store and without a page."""

from __future__ import annotations

import pytest

from engine.errors import RequestError
from ui.conversations.store import NotFound, Store
from ui.pages.chat.navigation import ConversationState, TabView, open_conversation, restore_conversation

ME = "local"


@pytest.fixture
def store() -> Store:
    return Store()


def converse(store: Store, *texts: str) -> ConversationState:
    """Store a conversation of alternating questions and answers, and open it."""
    place = open_conversation(store, ME, TabView())
    for number, text in enumerate(texts):
        if number % 2 == 0:
            place = place.ask(text, place.view.leaf)
        else:
            node = store.add(ME, place.view.key, place.view.leaf, "assistant", text)
            place = open_conversation(store, ME, TabView(place.view.key, node))
    return place


def texts(place: ConversationState) -> list[str]:
    return [node.text for node in place.path]


def at(place: ConversationState, index: int) -> int:
    """Return the id of a message shown."""
    return place.path[index].id


def test_an_edit_is_a_branch_and_the_old_one_stays_reachable(store: Store) -> None:
    first = converse(store, "one", "1", "two", "2")
    edited = first.edit(at(first, 0), "ONE")
    assert texts(edited) == ["ONE"]
    old, new = edited.tree.versions(at(edited, 0))
    assert texts(edited.switch(old)) == ["one", "1", "two", "2"]
    # the same after a reload
    assert texts(restore_conversation(store, ME, first.view.key)) == ["one", "1", "two", "2"]
    assert texts(edited.switch(old).switch(new)) == ["ONE"]
    with pytest.raises(NotFound):
        edited.switch(at(first, 1))  # it is no version of a message that is shown


def test_an_answer_is_edited_too(store: Store) -> None:
    first = converse(store, "one", "1", "two", "2")
    edited = first.edit(at(first, 1), "I")
    assert texts(edited) == ["one", "I"] and edited.last is not None and edited.last.made is not None
    assert texts(edited.switch(at(first, 1))) == ["one", "1", "two", "2"]
    with pytest.raises(RequestError, match="1,000,001 characters"):
        first.edit(at(first, 1), "x" * 1_000_001)


def test_undo_gives_the_question_back_and_redo_brings_all_again(store: Store) -> None:
    there = converse(store, "one", "1", "two", "2")
    back, question = there.undo()
    assert (texts(back), question) == (["one", "1"], "two")
    begin, question = back.undo()
    assert (texts(begin), question) == ([], "one")
    assert texts(begin.redo()) == ["one", "1", "two", "2"]
    assert there.redoable is None


def test_deleting_takes_the_message_and_all_below_it_and_can_be_undone(store: Store) -> None:
    there = converse(store, "one", "1", "two", "2")
    other = there.edit(at(there, 2), "TWO").switch(at(there, 2))
    after, deleted = other.delete(at(there, 2))
    assert texts(after) == ["one", "1", "TWO"] and [node.text for node in deleted.nodes] == ["two", "2"]
    assert texts(after.restore(deleted)) == ["one", "1", "two", "2"]
    assert texts(restore_conversation(store, ME, there.view.key)) == ["one", "1", "two", "2"]
    begin, all_of_it = there.delete(at(there, 0))
    assert texts(begin) == [] and len(all_of_it.nodes) == 5
    with pytest.raises(NotFound):
        begin.delete(at(there, 2))
    with pytest.raises(NotFound):
        begin.restore(deleted)  # the messages above it are gone
    assert texts(begin.restore(all_of_it)) == ["one", "1", "two", "2"]


def test_two_tabs_write_branches_of_one_conversation(store: Store) -> None:
    here = converse(store, "one", "1")
    mine, yours = here.ask("mine", here.view.leaf), here.ask("yours", here.view.leaf)
    assert texts(open_conversation(store, ME, mine.view)) == ["one", "1", "mine"]
    assert texts(open_conversation(store, ME, yours.view)) == ["one", "1", "yours"]
    yours.delete(at(yours, 0))  # a deletion also takes effect in the other tab, without an error
    assert texts(open_conversation(store, ME, mine.view)) == []


def test_a_question_that_cannot_be_answered_leaves_nothing(store: Store) -> None:
    empty = open_conversation(store, ME, TabView())
    empty.discard(empty.ask("refused", None))
    assert store.list(ME) == ()
    here = converse(store, "one", "1", "two", "2")
    here.discard(here.edit(at(here, 2), "TWO"))
    assert texts(restore_conversation(store, ME, here.view.key)) == ["one", "1", "two", "2"]
    assert texts(here.discard(here.regenerate())) == ["one", "1", "two", "2"]


def test_a_question_that_cannot_be_answered_takes_nothing_of_another_tabs(store: Store) -> None:
    empty = open_conversation(store, ME, TabView())
    mine = empty.ask("mine", None)
    yours = restore_conversation(store, ME, mine.view.key).ask("yours", None)
    empty.discard(mine)
    assert texts(open_conversation(store, ME, yours.view)) == ["yours"]
    below = yours.ask("below", yours.view.leaf)
    empty.discard(yours)
    assert texts(restore_conversation(store, ME, below.view.key)) == ["yours", "below"]


def test_nobody_elses_conversation_is_shown(store: Store) -> None:
    with pytest.raises(NotFound):
        open_conversation(store, "visitor:else", converse(store, "one", "1").view)
    with pytest.raises(NotFound):
        converse(store, "one").message(10**6)
