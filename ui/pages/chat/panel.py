"""The chat page's conversation: its components, and their updates for a ConversationState.

The store holds the conversation; the Chatbot is only an output. Clicks are handled in generation_events.py
and edit_events.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

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
from ui.render.status import (
    Failure,
    error_line,
    line,
    made_line,
    meter_of,
    meter_while,
    not_saved_line,
    status,
)

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
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
    """Return the example questions of an empty conversation."""
    return [{"text": t(key)} for key in EXAMPLES]


def chatbot() -> gr.Chatbot:
    """Create the component of the conversation."""
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
    """Create the text box for questions."""
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
    """Return an update to show Stop in place of Send; a new one each time, since Gradio empties it."""
    return _box("" if clear else None, submit_btn=False, stop_btn=text("chat.stop"))


def idle(holding: str | None = None) -> Any:
    """Return an update to show Send, with the text `holding`, or by default with the text already typed."""
    return _box(holding, submit_btn=text("chat.send"), stop_btn=False)


def _box(value: str | None, **buttons: Any) -> Any:
    return gr.update(**buttons) if value is None else gr.update(value=value, **buttons)


def help_button(t: Translator) -> str:
    """Render a question mark that opens the list of shortcuts, as an HTML popover.

    Its data attributes hold the names of messages for ui/static/message_keyboard.js.
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
    """A tab's owner, view and model. `current` is the open conversation's id, which survives a restart.

    `context` is the model's, in tokens.
    """

    owner: str
    view: TabView
    current: str
    context: int
    t: Translator = ENGLISH


class ChatPanel:
    """The components of the conversation; its methods return updates for `outputs`."""

    def __init__(
        self,
        store: Store,
        context: int,
        *,
        current: gr.components.Component,
        is_writing: Callable[[int], bool],
    ) -> None:
        """Lay out the components. `context` is the default model's, `current` holds a conversation's id."""
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
        self.streamed = [self.chatbot, self.status, self.meter]

    async def off_loop(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call`, which uses the store, in a thread."""
        return await self._store.off_loop(call, *args, **kwargs)

    def state(self, tab: TabContext) -> ConversationState:
        """Load the state of a tab. Raises NotFound."""
        if tab.view.key:
            return open_conversation(self._store, tab.owner, tab.view)
        return restore_conversation(self._store, tab.owner, tab.current)

    def no_update(self) -> Updates:
        """Return an update that changes nothing: Gradio would take an empty dict for a value."""
        return {self.status: gr.skip()}

    def show(self, state: ConversationState, tab: TabContext, text: str | None = None) -> Updates:
        """Show a state; the box gets `text`, or keeps what is typed in it."""
        path = state.path
        writing = self._writing(state)
        return {
            self.chatbot: gr.update(
                value=list(chatbot_rows(path, tab.t).rows), feedback_value=opinions(path)
            ),
            self.status: made_line(state.last.made if state.last and not writing else None, tab.t),
            self.meter: meter_of(path, tab.context, tab.t),
            self.view: state.view,
            self.current: state.view.key,
            self.box: idle(text),
            **self.bar.updates(state, tab.t, writing=writing),
            **self.note.hide(),
        }

    def show_opened(self, state: ConversationState, tab: TabContext) -> Updates:
        """Show a conversation that was opened, or found when the page was loaded."""
        updates = self.show(state, tab)
        updates[self.chatbot]["examples"] = examples(tab.t)
        if self._writing(state):
            updates |= {self.box: busy(), self.status: line(tab.t("status.starting"), "busy")}
        return updates | {self.help: help_button(tab.t)}

    def show_translated(self, tab: TabContext) -> Updates:
        """Translate the texts that Gradio does not."""
        words = gr.update(examples=examples(tab.t))
        return {self.chatbot: words, self.help: help_button(tab.t)}

    def show_started(self, state: ConversationState, tab: TabContext, *, clear: bool) -> Updates:
        """Show the question, before the answer begins; `clear` empties the box."""
        path = state.path
        return {
            self.chatbot: gr.update(
                value=list(chatbot_rows(path, tab.t).rows), feedback_value=opinions(path)
            ),
            self.status: line(tab.t("status.starting"), "busy"),
            self.view: state.view,
            self.current: state.view.key,
            self.box: busy(clear=clear),
            **self.bar.updates(state, tab.t, writing=True),
            **self.note.hide(),
        }

    def show_progress(self, before: ChatbotRow, node: Node, progress: Progress, tab: TabContext) -> Updates:
        """Show an answer under way; `before` are the rows above it."""
        rows = chatbot_rows([node], tab.t, writing=not progress.done).rows if progress.text else ()
        updates: Updates = {self.status: status(progress, tab.t), self.chatbot: [*before.rows, *rows]}
        if (meter := meter_while(progress, tab.context, tab.t)) is not None:
            updates[self.meter] = meter
        return updates

    def show_ended(self, state: ConversationState, progress: Progress, tab: TabContext) -> Updates:
        """Show a finished answer, or its error if it has no text."""
        updates = self.show(open_conversation(state.store, state.owner, state.view), tab)
        if progress.error is not None or not progress.text.strip():
            updates[self.status] = status(progress, tab.t)
        return updates

    def show_unsaved(
        self, state: ConversationState, answer: Node, error: StoreError, tab: TabContext
    ) -> Updates:
        """Show an answer that could not be saved in full."""
        tree = Tree({**state.tree.nodes, answer.id: answer}, answer.id)
        return self.show(replace(state, tree=tree), tab) | {self.status: not_saved_line(error, tab.t)}

    def show_marked(self, state: ConversationState, tab: TabContext) -> Updates:
        """Show the toolbar for the marked message."""
        writing = self._writing(state)
        return {self.view: state.view, **self.bar.updates(state, tab.t, writing=writing)}

    def _writing(self, state: ConversationState) -> bool:
        """Return whether the last message, or an answer to it, is under way in any tab."""
        below = state.tree.children.get(state.tree.leaf, [])
        return any(self._is_writing(node.id) for node in state.path[-1:]) or any(map(self._is_writing, below))

    def show_error(self, error: Failure, tab: TabContext, question: str | None = None) -> Updates:
        """Show the conversation after an error, with the error; `question` goes back into the box.

        One that cannot be read stays on the page as it is.
        """
        told = error_line(error, t=tab.t)
        try:
            return self.show(self.state(tab), tab, question) | {self.status: told}
        except NotFound:
            state = restore_conversation(self._store, tab.owner, "")
            return self.show(state, tab, question) | {self.status: told}
        except Exception:  # noqa: BLE001 - the boundary: a page without this update would wait for good
            _log.exception("a conversation cannot be shown")
            return {self.box: idle(question), self.status: told}

    def ask_feedback(self, state: ConversationState, node: Node, tab: TabContext) -> Updates:
        """Show the rating of an answer, and ask for a note."""
        return {
            self.chatbot: gr.update(feedback_value=opinions(state.path)),
            **self.note.ask(node, tab.t),
        }
