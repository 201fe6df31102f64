"""The page /compare: one prompt, two to four models, their answers side by side, and a vote."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr
from markupsafe import Markup

from common.system import free_memory
from common.text import size_text
from engine.errors import EngineError, SettingsError, foreseen
from ui.auth import access
from ui.auth.identity import on_own_machine
from ui.auth.limits import RateLimitExceeded
from ui.generation.sessions import ActiveStreams
from ui.generation.side_by_side import Column, SideBySide
from ui.i18n.words import Translator, text, translator
from ui.models.registry import Models
from ui.pages.compare.view import Round, columns
from ui.pages.compare.votes import VotePanel
from ui.pages.settings_panel import SettingsPanel
from ui.render.messages import conversation
from ui.render.status import error_line, line
from ui.static import STATIC

MIN_MODELS, MAX_MODELS = 2, 4
_DRAW = (STATIC / "compare.js").read_text(encoding="utf-8")
Update = tuple[Any, Any, Any, Any, Any]


class ComparePanel:
    """The page's components and events."""

    def __init__(self, models: Models, live: ActiveStreams, settings: SettingsPanel) -> None:
        self._models, self._live, self._settings = models, live, settings
        choices = models.catalog.choices(own_machine=False)
        self._chosen = gr.Dropdown(
            choices,
            value=[key for _, key in choices[:MIN_MODELS]],
            multiselect=True,
            max_choices=MAX_MODELS,
            label=text("compare.models"),
            elem_id="compare-models",
        )
        with gr.Row(elem_id="compare-ways"):
            self._blind = gr.Checkbox(label=text("compare.blind"), info=text("compare.blind.info"))
            self._turns = gr.Checkbox(label=text("compare.turns"), info=text("compare.turns.info"))
        self._answers = gr.HTML(padding=False, elem_id="lanes", js_on_load=_DRAW, apply_default_css=False)
        self._votes = VotePanel()
        self._note = gr.HTML(line(""), padding=False, elem_id="status")
        self._box = gr.Textbox(
            elem_id="question",
            label=text("compare.prompt"),
            show_label=False,
            container=False,
            placeholder=text("compare.placeholder"),
            max_lines=8,
            autofocus=True,
            submit_btn=text("compare.ask"),  # type: ignore[arg-type]  # Gradio translates it
            stop_btn=False,
        )

    def wire(self, page: gr.Blocks, concurrency: int) -> None:
        """Connect the events; models that were typed in on the chat page are offered here too."""
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self._box.submit(
            self._run,
            [self._box, self._chosen, self._blind, self._turns, *self._settings.components],
            [self._box, self._answers, self._note, self._votes.vote, self._votes.round],
            concurrency_limit=concurrency,
            show_progress="hidden",
            api_visibility="private",
        )
        self._box.stop(self._stop, None, None, **quick)
        page.load(self._offered, None, [self._chosen], **quick)
        self._votes.wire(page, self._answers, self._note)

    async def _run(
        self, request: gr.Request, prompt: str, chosen: list[str], blind: bool, turns: bool, *settings: Any
    ) -> AsyncGenerator[Update, None]:
        t = translator(request)
        try:
            keys = self._checked(prompt, chosen, request, t)
            system_prompt, sampling = SettingsPanel.read(settings)
            asked = conversation([{"role": "user", "content": prompt}], system_prompt)
        except EngineError as error:
            yield gr.skip(), gr.skip(), error_line(error, t=t), gr.skip(), gr.skip()
            return
        if blind:
            random.shuffle(keys)
        race = SideBySide(self._models.pool, keys, asked, sampling)
        try:
            with access.admit(request), self._live.track(str(request.session_hash), race):
                async with aclosing(race.run(together=not turns)) as updates:
                    async for lanes in updates:
                        yield self._shown(lanes, blind, turns, t)
        except RateLimitExceeded as error:
            yield gr.skip(), gr.skip(), line(error.text(t), "error"), gr.skip(), gr.skip()
        except Exception as error:  # noqa: BLE001 - the boundary: the page would wait for good
            box = gr.update(submit_btn=t("compare.ask"), stop_btn=False)
            yield box, gr.skip(), error_line(foreseen(error), t=t), gr.skip(), gr.skip()

    def _shown(self, lanes: Sequence[Column], blind: bool, turns: bool, t: Translator) -> Update:
        labels = tuple(self._models.catalog.label(lane.key) for lane in lanes)
        current = Round(tuple(lanes), labels, blind)
        if not current.done:
            box = gr.update(submit_btn=False, stop_btn=t("chat.stop"))
            note = line(t("compare.in_turn" if turns else "compare.together"), "busy")
            return box, columns(current, t), note, gr.update(visible=False), None
        box = gr.update(submit_btn=t("compare.ask"), stop_btn=False)
        note = line(t("compare.please_vote") if current.votable else "")
        if not blind:  # the line names the model
            note += self._warnings([lane.key for lane in lanes], t)
        return box, columns(current, t), note, self._votes.offer(current, t), current

    def _warnings(self, keys: Sequence[str], t: Translator) -> Markup:
        """Say which models' files are not those of their manifest, or have changed in use."""
        changes = [change for key in keys if (change := self._models.change(key)) is not None]
        return Markup().join(line(change.text(t), "error") for change in changes)

    def _checked(self, prompt: str, chosen: Sequence[str], request: gr.Request, t: Translator) -> list[str]:
        """Return the keys of the models to compare. Raises EngineError."""
        if not prompt.strip():
            raise SettingsError(t("compare.no_prompt"))
        own = on_own_machine(request)
        keys = [self._models.admit(key, own) for key in dict.fromkeys(chosen)]
        if not MIN_MODELS <= len(keys) <= MAX_MODELS:
            raise SettingsError(t("compare.how_many", count=len(keys)))
        self._must_fit(keys, t)
        return keys

    def _must_fit(self, keys: Sequence[str], t: Translator) -> None:
        """Raise SettingsError unless all models fit in memory together: swapping would stall the server."""
        there = self._models.pool.loaded()
        needed = sum(self._models.catalog.size(key) for key in keys if key not in there)
        free = free_memory()
        if free is not None and needed > free:
            raise SettingsError(t("compare.too_big", needed=size_text(needed), free=size_text(free)))

    def _stop(self, request: gr.Request) -> None:
        self._live.cancel(str(request.session_hash))

    def _offered(self, request: gr.Request) -> Any:
        return gr.update(choices=self._models.catalog.choices(on_own_machine(request)))
