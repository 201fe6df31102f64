"""The toolbar below the conversation (a message's versions and actions), and the box for feedback notes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import gradio as gr

from ui.conversations.model import Node
from ui.i18n.words import Translator, text
from ui.pages.chat.navigation import ConversationState
from ui.render.html import html

Updates = dict[Any, Any]


class MessageToolbar:
    """The toolbar of the marked message, or else of the last one that has versions."""

    def __init__(self) -> None:
        with gr.Row(elem_id="bar", equal_height=True):
            self.label = gr.HTML("", padding=False, elem_id="bar-label")
            self.redo = _button("redo")
            self.answer = _button("answer")
            self.go_on = _button("continue")
            self.delete = _button("delete")
            self.confirm = _button("sure_one", "stop")
            self.cancel = _button("keep")
            # At the end, where the row is anchored: what comes and goes with a click does not move them.
            self.earlier = _button("earlier")
            self.later = _button("later")
        self.outputs = [self.label, self.earlier, self.later, self.redo, self.answer, self.go_on]
        self.outputs += [self.delete, self.confirm, self.cancel]

    def updates(self, state: ConversationState, t: Translator, *, writing: bool = False) -> Updates:
        """Return the updates for a state; `writing`: an answer is under way, in this tab or another."""
        versions, last = state.versions, state.last
        number, count = (versions[1].index(versions[0]) + 1, len(versions[1])) if versions else (0, 0)
        cut = last is not None and last.made is not None and last.made.reason != "stop"
        return {
            self.label: label(state, t),
            self.earlier: gr.update(visible=count > 0, interactive=number > 1 and not writing),
            self.later: gr.update(visible=count > 0, interactive=number < count and not writing),
            self.redo: gr.update(visible=not writing and state.redoable is not None),
            self.answer: gr.update(
                visible=not writing and last is not None and last.role == "user" and state.redoable is None
            ),
            self.go_on: gr.update(visible=cut and not writing),
            self.delete: gr.update(visible=state.marked is not None and not writing),
            self.confirm: gr.update(visible=False),
            self.cancel: gr.update(visible=False),
        }

    def ask_to_confirm(self, state: ConversationState, t: Translator) -> Updates:
        """Ask whether the marked message is to be deleted, which cannot be undone."""
        if state.marked is None:
            return self.updates(state, t)
        count = len(state.tree.subtree(state.marked.id))
        words = t("bar.sure_one") if count == 1 else t("bar.sure_many", count=count)
        others = (self.earlier, self.later, self.redo, self.answer, self.go_on, self.delete)
        return {
            **{button: gr.update(visible=False) for button in others},
            self.confirm: gr.update(visible=True, value=words),
            self.cancel: gr.update(visible=True),
        }


def label(state: ConversationState, t: Translator) -> str:
    """Render the toolbar's message and the number of the version shown.

    `data-row` is the marked message's row, from 1, for ui/static/message_keyboard.js.
    """
    versions = state.versions
    about = state.tree.nodes[versions[0]] if versions else state.marked
    if about is None:
        return ""
    row = _row(state, about)
    name = t("bar.message" if about.role == "user" else "bar.reply", number=(row + 1) // 2)
    words = ""
    if versions:
        words = t("bar.version", number=versions[1].index(about.id) + 1, count=len(versions[1]))
    return html(
        "<span class='which'{% if marked %} data-row='{{ row }}'{% endif %}>{{ name }}"
        "{% if marked %} <span class='heard'>{{ heard }}</span>{% endif %}</span>"
        "<span class='version'>{{ words }}</span>",
        marked=state.marked is not None,
        row=row,
        name=name,
        heard=t("bar.marked"),
        words=words,
    )


def _row(state: ConversationState, about: Node) -> int:
    """Return a message's row in the Chatbot, from 1: neighbours by the same author share a row."""
    authors = [node.role for node in state.path[: state.path.index(about) + 1]]
    return 1 + sum(one != other for one, other in pairwise(authors))


def _button(name: str, variant: Literal["secondary", "stop"] = "secondary") -> gr.Button:
    words = text(f"bar.{name}")
    return gr.Button(
        words, size="sm", variant=variant, scale=0, min_width=0, visible=False, elem_id=f"bar-{name}"
    )


class FeedbackNote:
    """A text box for a note on the answer that was rated; `node` holds its id."""

    def __init__(self) -> None:
        self.node = gr.State(None)
        with gr.Row(elem_id="note", visible=False, equal_height=True) as self._row:
            self.text = gr.Textbox(
                show_label=False,
                label=text("note.label"),
                container=False,
                max_lines=1,
                max_length=2000,
                elem_id="note-text",
            )
            self.save = gr.Button(text("note.save"), size="sm", variant="secondary", scale=0, min_width=0)
            self.close = gr.Button(text("note.close"), size="sm", variant="secondary", scale=0, min_width=0)
        self.outputs = [self.node, self._row, self.text]

    def ask(self, node: Node, t: Translator) -> Updates:
        """Ask for a note on the rated answer; hide the box when the rating was taken back."""
        if node.opinion is None:
            return self.hide()
        return {
            self.node: node.id,
            self._row: gr.update(visible=True),
            self.text: gr.update(value=node.note, placeholder=t(f"note.{node.opinion}")),
        }

    def hide(self) -> Updates:
        """Hide the box."""
        return {self.node: None, self._row: gr.update(visible=False)}
