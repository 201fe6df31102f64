"""Shows the probabilities of an answer's tokens on demand, computed by the tab's model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gradio as gr

from engine.config import SamplingParams
from engine.types import Message
from ui.conversations.model import EDITED, Node
from ui.conversations.store import NotFound
from ui.generation.answering import AcquireModel
from ui.generation.running import Task
from ui.generation.sessions import ActiveStreams
from ui.generation.token_probabilities import ScoredAnswer, score_answer
from ui.i18n.words import Translator
from ui.models.files import short_name
from ui.pages.chat.edit_events import ContextReader, EventContext
from ui.pages.chat.generation_events import failure
from ui.pages.chat.message_list import data, node_of
from ui.pages.chat.navigation import ConversationState
from ui.pages.chat.panel import ChatPanel, Updates
from ui.pages.settings_panel import SettingsPanel
from ui.render.status import error_status


class ProbabilityEvents:
    """The handler of one event; a tab has one answer read at a time."""

    def __init__(self, panel: ChatPanel, acquire_model: AcquireModel, read: ContextReader) -> None:
        self._panel, self._acquire_model, self._read = panel, acquire_model, read
        self._live = ActiveStreams()

    async def show(self, request: gr.Request, asked: gr.EventData, *inputs: Any) -> Updates:
        """Send the probabilities of an answer's tokens; with `close` in the data, give up on them."""
        event, node = self._read(request, inputs), node_of(asked)
        self.cancel(event.session)
        if data(asked).get("close"):
            return self._panel.no_update()
        t = event.tab.t
        try:
            with event.admit():
                state = await self._panel.off_loop(self._panel.state, event.tab)
                messages = _conversation(event, state, state.message(node))
                async with self._acquire_model(event.model) as backend:
                    name = f"{short_name(backend.info)} {backend.info.quantization}"
                    found = await score_answer(backend, messages, self._live, event.session)
        except Exception as error:  # noqa: BLE001 - the boundary: the page would wait for good
            told: dict[str, Any] = {"error": error_status(failure(error), t=t).text}
        else:
            if found is None:
                return self._panel.no_update()
            told = {**asdict(found), "note": _note(found, name, t)}
        return {self._panel.messages.growing: {"probabilities": told | {"node": node}}}

    def cancel(self, session: str) -> None:
        """Stop what is read for a tab. Returns at once."""
        self._live.cancel(session)


def _conversation(event: EventContext, state: ConversationState, answer: Node) -> list[Message]:
    """Return the conversation down to an answer, with the system prompt that it was made with."""
    if answer.role != "assistant" or not answer.text.strip():
        raise NotFound("this answer is not there (any more)")
    made = answer.made if answer.made != EDITED else None
    prompt = made.system_prompt if made is not None else SettingsPanel.read(event.settings)[0]
    path = tuple(state.view_at(answer.id).path)
    return Task(state.owner, state.view.key, path, prompt, SamplingParams(), event.model).messages()


def _note(found: ScoredAnswer, name: str, t: Translator) -> str:
    left_out = " " + t("probabilities.dropped", count=t.number(found.dropped)) if found.dropped else ""
    return t("probabilities.note", name=name) + left_out
