"""The actions on a conversation, with a real store and without a page."""

from __future__ import annotations

import pytest
from ui.pages.chat.message_toolbar import label

from ui.conversations.store import NotFound, Store
from ui.i18n.words import ENGLISH
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


def test_an_edit_is_a_branch_and_the_old_one_stays_reachable(store: Store) -> None:
    first = converse(store, "one", "1", "two", "2")
    edited = first.ask("ONE", first.message_at(0).parent)
    assert texts(edited) == ["ONE"]
    assert edited.versions is not None and edited.versions[1].index(edited.versions[0]) == 1
    assert texts(edited.switch_branch(-1)) == ["one", "1", "two", "2"]
    assert texts(restore_conversation(store, ME, first.view.key)) == [
        "one",
        "1",
        "two",
        "2",
    ]  # the same after a reload
    assert texts(edited.switch_branch(-1).switch_branch(1)) == ["ONE"]
    assert texts(edited.switch_branch(1)) == ["ONE"]  # the last version has no next one


def test_undo_gives_the_question_back_and_redo_brings_all_again(store: Store) -> None:
    there = converse(store, "one", "1", "two", "2")
    back, question = there.undo()
    assert (texts(back), question) == (["one", "1"], "two")
    begin, question = back.undo()
    assert (texts(begin), question) == ([], "one")
    assert texts(begin.redo()) == ["one", "1", "two", "2"]
    assert there.redoable is None


def test_deleting_takes_the_message_and_all_below_it(store: Store) -> None:
    there = converse(store, "one", "1", "two", "2")
    assert texts(there.mark(2).mark(2).delete_marked()) == [
        "one",
        "1",
        "two",
        "2",
    ]  # clicked twice: not marked
    assert texts(there.mark(2).delete_marked()) == ["one", "1"]
    with pytest.raises(NotFound):
        there.mark(2).delete_marked()


def test_two_tabs_write_branches_of_one_conversation(store: Store) -> None:
    here = converse(store, "one", "1")
    mine, yours = here.ask("mine", here.view.leaf), here.ask("yours", here.view.leaf)
    assert texts(open_conversation(store, ME, mine.view)) == ["one", "1", "mine"]
    assert texts(open_conversation(store, ME, yours.view)) == ["one", "1", "yours"]
    yours.mark(0).delete_marked()  # a deletion also takes effect in the other tab, without an error
    assert texts(open_conversation(store, ME, mine.view)) == []


def test_a_question_that_cannot_be_answered_leaves_nothing(store: Store) -> None:
    empty = open_conversation(store, ME, TabView())
    empty.discard(empty.ask("refused", None))
    assert store.list(ME) == ()
    here = converse(store, "one", "1", "two", "2")
    here.discard(here.ask("TWO", here.message_at(2).parent))
    assert texts(restore_conversation(store, ME, here.view.key)) == ["one", "1", "two", "2"]
    assert here.discard(here.regenerate()).versions is None


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
        converse(store, "one").message_at(7)


def test_the_bar_says_which_row_is_marked(store: Store) -> None:
    place = converse(store, "one", "1")
    again = place.ask("unanswered", place.view.leaf)
    there = again.ask("asked again", again.view.leaf)  # the Chatbot shows both in one row
    assert label(there, ENGLISH) == ""
    for index, row in ((0, 1), (1, 2), (2, 3), (3, 3)):
        assert f"data-row='{row}'" in label(there.mark(index), ENGLISH)
