"""The bar below the conversation: versions of a message, and what can be done with it."""

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
    """Lays out the bar; `updates` are its components for a place."""

    def __init__(self) -> None:
        with gr.Row(elem_id="bar", equal_height=True):
            self.label = gr.HTML("", padding=False, elem_id="bar-label")
            self.earlier = _button("earlier")
            self.later = _button("later")
            self.redo = _button("redo")
            self.answer = _button("answer")
            self.go_on = _button("continue")
            self.delete = _button("delete")
            self.sure = _button("sure_one", "stop")
            self.keep = _button("keep")
        self.outputs = [self.label, self.earlier, self.later, self.redo, self.answer, self.go_on]
        self.outputs += [self.delete, self.sure, self.keep]

    def updates(self, place: ConversationState, t: Translator, *, writing: bool = False) -> Updates:
        """For what is shown; `writing`: the last answer is under way, in this tab or another."""
        versions, last = place.versions, place.last
        number, count = (versions[1].index(versions[0]) + 1, len(versions[1])) if versions else (0, 0)
        cut = last is not None and last.made is not None and last.made.reason != "stop"
        return {
            self.label: label(place, t),
            self.earlier: gr.update(visible=count > 0, interactive=number > 1 and not writing),
            self.later: gr.update(visible=count > 0, interactive=number < count and not writing),
            self.redo: gr.update(visible=not writing and place.redoable is not None),
            self.answer: gr.update(
                visible=not writing and last is not None and last.role == "user" and place.redoable is None
            ),
            self.go_on: gr.update(visible=cut and not writing),
            self.delete: gr.update(visible=place.marked is not None and not writing),
            self.sure: gr.update(visible=False),
            self.keep: gr.update(visible=False),
        }

    def asking(self, place: ConversationState, t: Translator) -> Updates:
        """Whether it is really meant: deleting is the one thing that nothing brings back."""
        if place.marked is None:
            return self.updates(place, t)
        count = len(place.tree.subtree(place.marked.id))
        words = t("bar.sure_one") if count == 1 else t("bar.sure_many", count=count)
        others = (self.earlier, self.later, self.redo, self.answer, self.go_on, self.delete)
        return {
            **{button: gr.update(visible=False) for button in others},
            self.sure: gr.update(visible=True, value=words),
            self.keep: gr.update(visible=True),
        }


def label(place: ConversationState, t: Translator) -> str:
    """Which message the bar is about, and which of its versions is shown.

    `data-row` is the row of the message that is marked, from 1; ui/static/message_keyboard.js finds it there.
    """
    versions = place.versions
    about = place.tree.nodes[versions[0]] if versions else place.marked
    if about is None:
        return ""
    row = _row(place, about)
    name = t("bar.message" if about.role == "user" else "bar.reply", number=(row + 1) // 2)
    words = ""
    if versions:
        words = t("bar.version", number=versions[1].index(about.id) + 1, count=len(versions[1]))
    return html(
        "<span class='which'{% if marked %} data-row='{{ row }}'{% endif %}>{{ name }}"
        "{% if marked %} <span class='heard'>{{ heard }}</span>{% endif %}</span>"
        "<span class='version'>{{ words }}</span>",
        marked=place.marked is not None,
        row=row,
        name=name,
        heard=t("bar.marked"),
        words=words,
    )


def _row(place: ConversationState, about: Node) -> int:
    """The place of a message among the Chatbot's rows, from 1: neighbours by the same author share one."""
    authors = [node.role for node in place.path[: place.path.index(about) + 1]]
    return 1 + sum(one != other for one, other in pairwise(authors))


def _button(name: str, variant: Literal["secondary", "stop"] = "secondary") -> gr.Button:
    words = text(f"bar.{name}")
    return gr.Button(
        words, size="sm", variant=variant, scale=0, min_width=0, visible=False, elem_id=f"bar-{name}"
    )


class FeedbackNote:
    """Appears above the box when an answer was judged; `node` holds which one."""

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

    def asking(self, node: Node, t: Translator) -> Updates:
        """Ask about an answer that was just judged; hidden when the opinion was taken back."""
        if node.opinion is None:
            return self.hidden()
        return {
            self.node: node.id,
            self._row: gr.update(visible=True),
            self.text: gr.update(value=node.note, placeholder=t(f"note.{node.opinion}")),
        }

    def hidden(self) -> Updates:
        """Out of the way."""
        return {self.node: None, self._row: gr.update(visible=False)}
