"""The conversation as a tab shows it: its components, and what they show of a place in the store.

The store is the truth: the Chatbot is an output alone. Clicks are handled in generation_events.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components.chatbot import ExampleMessage

from ui.conversations.model import Node, Tree
from ui.conversations.store import NotFound, Store, StoreError
from ui.generation.streaming import Progress
from ui.i18n.words import ENGLISH, Translator, text
from ui.pages.chat.message_toolbar import FeedbackNote, MessageToolbar, Updates
from ui.pages.chat.navigation import ConversationState, TabView, open_conversation, restore_conversation
from ui.render.html import render
from ui.render.messages import LATEX, ChatbotRow, chatbot_rows, opinions
from ui.render.status import Failure, error_line, line, made_line, meter_of, meter_while, status

EXAMPLES = ("chat.example_1", "chat.example_2", "chat.example_3", "chat.example_4")
SHORTCUTS = (
    ("Enter", "help.send"),
    ("Shift + Enter", "help.line"),
    ("Esc", "help.stop"),
    ("/", "help.box"),
    ("Ctrl + Shift + O", "help.new"),
    ("↑ ↓", "help.messages"),
    ("Enter", "help.mark"),
    ("← → Del", "help.marked"),
)


def examples(t: Translator) -> list[ExampleMessage]:
    """Questions to begin with."""
    return [{"text": t(key)} for key in EXAMPLES]


def chatbot() -> gr.Chatbot:
    """The conversation; what it holds is only shown, the store knows what is true."""
    return gr.Chatbot(
        elem_id="conversation",
        label=text("chat.label"),
        show_label=False,
        container=False,
        height="auto",
        scale=1,
        layout="bubble",
        buttons=["copy"],
        editable="user",
        latex_delimiters=LATEX,
        sanitize_html=True,
        allow_tags=False,
        group_consecutive_messages=True,  # thoughts and answer are one bubble
        placeholder=text("chat.empty"),  # type: ignore[arg-type]  # Gradio translates it all the same
        examples=examples(ENGLISH),
    )


def box() -> gr.Textbox:
    """Where one writes."""
    return gr.Textbox(
        elem_id="question",
        label=text("chat.message"),
        show_label=False,
        container=False,
        placeholder=text("chat.placeholder"),
        lines=1,
        max_lines=8,
        autofocus=True,
        submit_btn=text("chat.send"),  # type: ignore[arg-type]
        stop_btn=False,
        html_attributes=gr.InputHTMLAttributes(enterkeyhint="send"),
    )


def busy(*, clear: bool = False) -> Any:
    """The box with Stop in place of Send. A fresh update each time: Gradio takes it apart."""
    return _box("" if clear else None, submit_btn=False, stop_btn=text("chat.stop"))


def idle(holding: str | None = None) -> Any:
    """The box ready for a question, holding a text, or what the user is typing already."""
    return _box(holding, submit_btn=text("chat.send"), stop_btn=False)


def _box(value: str | None, **buttons: Any) -> Any:
    return gr.update(**buttons) if value is None else gr.update(value=value, **buttons)


def help_button(t: Translator) -> str:
    """A question mark that opens the list of shortcuts; the browser's own popover, no script.

    It carries what messages are called, for ui/static/message_keyboard.js.
    """
    return render(
        "help",
        label=t("help.label"),
        message=t("bar.message", number="{number}"),
        reply=t("bar.reply", number="{number}"),
        shortcuts=[(keys, t(key)) for keys, key in SHORTCUTS],
        click=t("help.click"),
    )


@dataclass(frozen=True)
class TabContext:
    """Who looks at what: a tab's view, and the open conversation's id, which outlives a restart.

    `context` is that of the tab's model, in tokens.
    """

    owner: str
    view: TabView
    current: str
    context: int
    t: Translator = ENGLISH


class ChatPanel:
    """Lays out the conversation; its methods give updates for `outputs`."""

    def __init__(
        self,
        store: Store,
        context: int,
        *,
        current: gr.components.Component,
        is_writing: Callable[[int], bool],
    ) -> None:
        """`context` is the first model's, in tokens; `current` holds the open conversation's id or ""."""
        self._store, self._is_writing = store, is_writing
        self.current, self.view = current, gr.State(TabView())
        self.chatbot = chatbot()
        with gr.Column(elem_id="below"):
            self.note = FeedbackNote()
            with gr.Row(elem_id="line", equal_height=True):
                self.status = gr.HTML(line(""), elem_id="status", padding=False)
                self.bar = MessageToolbar()
            self.box = box()
            with gr.Row(elem_id="foot", equal_height=True):
                self.meter = gr.HTML(meter_of([], context), elem_id="meter", padding=False)
                self.help = gr.HTML(help_button(ENGLISH), elem_id="help-corner", padding=False)
        self.outputs = [self.chatbot, self.status, self.box, self.meter, self.view, self.current, self.help]
        self.outputs += [*self.bar.outputs, *self.note.outputs]
        self.growing = [self.chatbot, self.status, self.meter]

    def place(self, where: TabContext) -> ConversationState:
        """What the tab shows; raises Unknown."""
        if where.view.key:
            return open_conversation(self._store, where.owner, where.view)
        return restore_conversation(self._store, where.owner, where.current)

    def nothing(self) -> Updates:
        """No change. Gradio takes an empty dict for a value."""
        return {self.status: gr.skip()}

    def show(self, place: ConversationState, where: TabContext, text: str | None = None) -> Updates:
        """All of a place, and the box with `text`, or with what is typed there already."""
        path = place.path
        writing = self._writing(place)
        return {
            self.chatbot: gr.update(
                value=list(chatbot_rows(path, where.t).rows), feedback_value=opinions(path)
            ),
            self.status: made_line(place.last.made if place.last and not writing else None, where.t),
            self.meter: meter_of(path, where.context, where.t),
            self.view: place.view,
            self.current: place.view.key,
            self.box: idle(text),
            **self.bar.updates(place, where.t, writing=writing),
            **self.note.hidden(),
        }

    def opened(self, place: ConversationState, where: TabContext) -> Updates:
        """A place that was chosen, or found as the page was loaded."""
        updates = self.show(place, where)
        updates[self.chatbot]["examples"] = examples(where.t)
        return updates | {self.help: help_button(where.t)}

    def translated(self, where: TabContext) -> Updates:
        """What Gradio does not translate itself."""
        words = gr.update(examples=examples(where.t))
        return {self.chatbot: words, self.help: help_button(where.t)}

    def started(self, place: ConversationState, where: TabContext, *, clear: bool) -> Updates:
        """The question is there, and nothing of the answer yet; `clear` empties the box."""
        path = place.path
        return {
            self.chatbot: gr.update(
                value=list(chatbot_rows(path, where.t).rows), feedback_value=opinions(path)
            ),
            self.status: line(where.t("status.starting"), "busy"),
            self.view: place.view,
            self.current: place.view.key,
            self.box: busy(clear=clear),
            **self.bar.updates(place, where.t, writing=True),
            **self.note.hidden(),
        }

    def grown(self, before: ChatbotRow, node: Node, progress: Progress, where: TabContext) -> Updates:
        """An answer under way; `before` are the rows above it."""
        rows = chatbot_rows([node], where.t, writing=not progress.done).rows if progress.text else ()
        updates: Updates = {self.status: status(progress, where.t), self.chatbot: [*before.rows, *rows]}
        if (meter := meter_while(progress, where.context, where.t)) is not None:
            updates[self.meter] = meter
        return updates

    def ended(self, place: ConversationState, progress: Progress, where: TabContext) -> Updates:
        """An answer at its end, or what is left if it said nothing."""
        updates = self.show(open_conversation(place.store, place.owner, place.view), where)
        if progress.error is not None or not progress.text.strip():
            updates[self.status] = status(progress, where.t)
        return updates

    def unkept(self, place: ConversationState, answer: Node, error: StoreError, where: TabContext) -> Updates:
        """An answer that can be read, but could not be kept: the store has less of it."""
        tree = Tree({**place.tree.nodes, answer.id: answer}, answer.id)
        return self.show(replace(place, tree=tree), where) | {self.status: error_line(error, t=where.t)}

    def marked(self, place: ConversationState, where: TabContext) -> Updates:
        """A message was clicked."""
        writing = self._writing(place)
        return {self.view: place.view, **self.bar.updates(place, where.t, writing=writing)}

    def _writing(self, place: ConversationState) -> bool:
        """Whether the last message, or an answer to it, is under way in any tab."""
        below = place.tree.children.get(place.tree.leaf, [])
        return any(self._is_writing(node.id) for node in place.path[-1:]) or any(map(self._is_writing, below))

    def failed(self, error: Failure, where: TabContext, question: str | None = None) -> Updates:
        """What is left after an error, and what it was; `question` is given back."""
        try:
            place = self.place(where)
        except (NotFound, StoreError):
            place = restore_conversation(self._store, where.owner, "")
        return self.show(place, where, question) | {self.status: error_line(error, t=where.t)}

    def judging(self, place: ConversationState, node: Node, where: TabContext) -> Updates:
        """An answer was judged: ask why."""
        return {
            self.chatbot: gr.update(feedback_value=opinions(place.path)),
            **self.note.asking(node, where.t),
        }
