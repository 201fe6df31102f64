"""The conversation and its events: send, stop, regenerate, undo, new chat.

An answer is one async generator: no thread waits for it. It yields (box, history, status line) and leaves
what has not changed alone. Stop does not kill the generator: it cancels the stream in the engine, so that the
answer ends as any other does and keeps its numbers. "New chat" and a closed tab end both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from engine.errors import EngineError
from engine.pool import ModelPool
from ui import access
from ui.limits import TooMany
from ui.live import LiveStreams
from ui.messages import bubble, conversation, text_of
from ui.serving import serving
from ui.settings_panel import SettingsPanel
from ui.status import error_line, line, status
from ui.streaming import Progress, snapshots
from ui.texts import words

EXAMPLES = (
    "Explain to a child why the sky is blue.",
    "Write a thank-you note to a neighbour.",
    "Give me five ideas for a rainy Sunday.",
    "Write a Python function that reverses a word.",
)
EMPTY = "## What can I do for you?\nThe model runs right here, on the CPU: no other service reads along."
LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
SEND, STOP = "Send", "Stop"  # words: Gradio's own icons have no name for who cannot see them
CHAT_QUEUE = "chat"  # the page and the API share one limit

Update = tuple[Any, Any, Any]


class ChatPanel:
    """Lays out the conversation and wires its events."""

    def __init__(self, pool: ModelPool, key: gr.State, live: LiveStreams) -> None:
        """`key` is the tab's model in the pool."""
        self._pool, self._key, self._live = pool, key, live
        self.chatbot = _chatbot()
        self.status = gr.HTML(line(""), elem_id="status", padding=False)
        self.box = _box()

    def wire(self, settings: SettingsPanel, new_chat: gr.Button, concurrency: int) -> None:
        """Connect the events; `concurrency` answers may be under way (or wait in the engine) at once."""
        outputs = [self.box, self.chatbot, self.status]
        ask: dict[str, Any] = {
            "outputs": outputs,
            "concurrency_limit": concurrency,
            "concurrency_id": CHAT_QUEUE,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        inputs = [self.chatbot, self._key, *settings.components]
        running: list[Any] = [
            self.box.submit(self._send, [self.box, *inputs], **ask),
            self.chatbot.retry(self._again, inputs, **ask),
            self.chatbot.example_select(self._example, inputs, **ask),
        ]
        self.box.stop(self._stop, None, None, **quick)
        self.chatbot.undo(self._undo, [self.chatbot], outputs, **quick)
        # The page runs these in order: first it stops listening to the answer, so that no late piece of it
        # comes back after the conversation is cleared.
        new_chat.click(None, cancels=running, api_visibility="private")
        new_chat.click(self._clear, None, outputs, **quick)

    async def _send(
        self, request: gr.Request, question: str, history: list[dict[str, Any]], *settings: Any
    ) -> AsyncGenerator[Update, None]:
        if not question.strip():
            yield gr.skip(), gr.skip(), line("Type a question first.", "note")
            return
        async with aclosing(self._answer(question, history, settings, request)) as updates:
            async for update in updates:
                yield update

    async def _again(
        self, request: gr.Request, history: list[dict[str, Any]], *settings: Any
    ) -> AsyncGenerator[Update, None]:
        question, before = _last_question(history)
        async with aclosing(self._answer(question, before, settings, request)) as updates:
            async for update in updates:
                yield update

    async def _example(
        self, request: gr.Request, chosen: gr.SelectData, history: list[dict[str, Any]], *settings: Any
    ) -> AsyncGenerator[Update, None]:
        async with aclosing(self._answer(chosen.value["text"], history, settings, request)) as updates:
            async for update in updates:
                yield update

    async def _answer(
        self, question: str, history: Sequence[dict[str, Any]], settings: Sequence[Any], request: gr.Request
    ) -> AsyncGenerator[Update, None]:
        """Show the question, then the answer as it grows; an error keeps what there is."""
        asked = [*history, bubble("user", question)]
        yield _busy(), asked, line("Starting", "busy")
        try:
            with access.admit(request):
                async with aclosing(self._progress(asked, settings, request)) as updates:
                    async for progress in updates:
                        yield _shown(progress, question, history, asked)
        except EngineError as error:
            yield _idle(question), list(history), error_line(error)
        except TooMany as error:
            yield _idle(question), list(history), line(error.text(words(request)), "error")

    async def _progress(
        self, asked: Sequence[Mapping[str, Any]], settings: Sequence[Any], request: gr.Request
    ) -> AsyncGenerator[Progress, None]:
        key, *controls = settings
        system_prompt, sampling = SettingsPanel.read(controls)
        async with serving(self._pool, key) as backend:
            stream = backend.stream(conversation(asked, system_prompt), sampling)
            with self._live.following(str(request.session_hash), stream):
                async with aclosing(snapshots(stream)) as updates:
                    async for progress in updates:
                        yield progress

    def _stop(self, request: gr.Request) -> None:
        self._live.cancel(str(request.session_hash))

    def _clear(self, request: gr.Request) -> Update:
        self._live.cancel(str(request.session_hash))
        return _idle(""), [], line("")

    def _undo(self, request: gr.Request, history: list[dict[str, Any]]) -> Update:
        self._live.cancel(str(request.session_hash))
        question, before = _last_question(history)
        return _idle(question), before, line("")


def _busy() -> Any:
    """The box emptied, with Stop in place of Send. A fresh one each time: Gradio takes an update apart."""
    return gr.update(value="", submit_btn=False, stop_btn=STOP)


def _idle(text: str | None = None) -> Any:
    """The box ready for a question, holding `text`, or what the user is typing already."""
    if text is None:
        return gr.update(submit_btn=SEND, stop_btn=False)
    return gr.update(value=text, submit_btn=SEND, stop_btn=False)


def _shown(
    progress: Progress,
    question: str,
    history: Sequence[dict[str, Any]],
    asked: Sequence[Mapping[str, Any]],
) -> Update:
    if not progress.text:
        if progress.error is not None:  # nothing to keep: give the question back
            return _idle(question), list(history), status(progress)
        return (_idle() if progress.done else gr.skip()), gr.skip(), status(progress)
    answer = [*asked, bubble("assistant", progress.text)]
    return (_idle() if progress.done else gr.skip()), answer, status(progress)


def _last_question(history: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The last thing that the user said, and the history before it."""
    for index in range(len(history) - 1, -1, -1):
        if history[index]["role"] == "user":
            return text_of(history[index]["content"]), list(history[:index])
    return "", []


def _chatbot() -> gr.Chatbot:
    return gr.Chatbot(
        elem_id="conversation",
        label="Conversation",
        show_label=False,
        container=False,
        height="auto",
        scale=1,
        layout="bubble",
        buttons=["copy"],
        latex_delimiters=LATEX,
        sanitize_html=True,
        allow_tags=False,
        group_consecutive_messages=False,
        placeholder=EMPTY,
        examples=[{"text": text} for text in EXAMPLES],
    )


def _box() -> gr.Textbox:
    return gr.Textbox(
        elem_id="question",
        label="Your message",
        show_label=False,
        container=False,
        placeholder="Ask something",
        lines=1,
        max_lines=8,
        autofocus=True,
        submit_btn=SEND,
        stop_btn=False,
        html_attributes=gr.InputHTMLAttributes(enterkeyhint="send"),
    )
