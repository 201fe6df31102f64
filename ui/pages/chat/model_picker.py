"""The picker in the page's head: which model answers in this browser tab.

A model is chosen once it has loaded: until then, and when it does not load, the tab keeps the one it has, and
no other tab's chat notices. The browser remembers the choice for its next visit; the server checks it then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.errors import EngineError
from engine.types import ModelInfo
from ui.auth.identity import on_own_machine
from ui.i18n.words import Translator, text, translator
from ui.models.registry import Models, acquire_model
from ui.render.html import html
from ui.render.status import line, model_facts, model_name

TICK = 0.5  # seconds between two updates of the line that says how long it has been loading
Update = tuple[Any, Any, Any, Any, Any, Any]
NO_UPDATE: Update = (gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip())


@dataclass
class _Switch:
    """A switch to another model: what was wanted, its key once it is known, and how much was downloaded."""

    wanted: object
    key: str | None = None
    fetched: float = 0.0
    left: bool = False

    def fetch(self, share: float) -> bool:
        """The download is so far: whether anybody waits for it."""
        self.fetched = max(self.fetched, share)
        return not self.left


@dataclass
class Tab:
    """Whether a model was chosen by hand in a tab: the one of the last visit is not wanted any more then."""

    has_chosen: bool = False


class ModelsPanel:
    """Lays out the picker; `key` is the tab's model, to be borrowed from the pool.

    `switched` are the events after which it may be another one.
    """

    def __init__(self, models: Models, own_machine: bool) -> None:
        self._models = models
        self._infos = dict[str, ModelInfo]()  # of the models that were chosen so far
        catalog, first = models.catalog, models.pool.default
        self.key = gr.State(first)
        self._tab = gr.State(Tab())  # one for each tab, and the same for all of its events
        self._kept = gr.BrowserState(None, storage_key="gguf-chat.model", secret="gguf-chat")
        choices = catalog.choices(own_machine=False)
        self._name = gr.HTML(padding=False, elem_id="model-name")
        self._picker = gr.Dropdown(
            choices,
            value=first,
            label=text("models.label"),
            show_label=False,
            container=False,
            allow_custom_value=own_machine,
            visible=own_machine or len(choices) > 1,
            elem_id="model",
        )

    def show_below(self, info: ModelInfo) -> None:
        """Lay out the lines under the head: the model's facts, and what switching comes to."""
        self._name.value = model_name(info)
        self._facts = gr.HTML(padding=False, elem_id="facts")
        self._note = gr.HTML("", padding=False, elem_id="model-note")

    def wire(self, page: gr.Blocks) -> None:
        """Connect the picker, and what the browser remembers."""
        outputs = [self._picker, self.key, self._kept, self._note, self._facts, self._name]
        quiet: dict[str, Any] = {
            "outputs": outputs,
            "concurrency_limit": None,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        chosen = self._picker.input(
            self._choose, [self._picker, self.key, self._tab], trigger_mode="always_last", **quiet
        )
        self.switched = [chosen, page.load(self._restore, [self._kept, self.key, self._tab], **quiet)]

    def info_of(self, key: str) -> ModelInfo | None:
        """What is known of a model, once a tab has chosen it."""
        return self._infos.get(key)

    async def _choose(
        self, request: gr.Request, wanted: object, now: str, tab: Tab
    ) -> AsyncGenerator[Update, None]:
        tab.has_chosen = True
        async for update in self._switch(request, wanted, now):
            yield update

    async def _restore(
        self, request: gr.Request, kept: object, now: str, tab: Tab
    ) -> AsyncGenerator[Update, None]:
        """At the start of a tab: the model of the last visit, if it still is on offer and none is chosen."""
        own = on_own_machine(request)
        wanted = kept if self._models.catalog.allows(kept, own) else now
        async with aclosing(self._switch(request, wanted, now)) as updates:
            async for update in updates:
                if tab.has_chosen:
                    yield NO_UPDATE  # Gradio sends the last update again, and clears the outputs without one
                    return
                yield update

    async def _switch(self, request: gr.Request, wanted: object, now: str) -> AsyncGenerator[Update, None]:
        """Load `wanted`, saying so, and make it the tab's model; or say why not, and keep `now`."""
        t, own = translator(request), on_own_machine(request)
        switch = _Switch(wanted)
        loading = asyncio.ensure_future(self._ready(switch, own))
        began = time.monotonic()
        try:
            while not (await asyncio.wait({loading}, timeout=TICK))[0]:
                note = self._loading(switch, int(time.monotonic() - began), t)
                yield (*[gr.skip()] * 3, line(note, "busy"), gr.skip(), gr.skip())
            key, info = loading.result()
            self._infos[key] = info
        except EngineError as error:
            note = t("models.kept", error=error, name=self._called(now))
            yield gr.update(value=now), gr.skip(), gr.skip(), line(note, "error"), gr.skip(), gr.skip()
            return
        finally:
            switch.left = True
            loading.cancel()
        choices = gr.update(choices=self._models.catalog.choices(own), value=key)
        yield choices, key, key, "", self._facts_of(info, own, t), model_name(info)

    async def _ready(self, switch: _Switch, own_machine: bool) -> tuple[str, ModelInfo]:
        """Have the model in memory. What was typed may have to be fetched, which takes a thread."""
        key = await asyncio.to_thread(self._models.admit, switch.wanted, own_machine, switch.fetch)
        switch.key = key
        async with acquire_model(self._models.pool, key) as backend:
            return key, backend.info

    def _loading(self, switch: _Switch, seconds: int, t: Translator) -> str:
        if switch.key is None:
            name, share = self._called(switch.wanted), switch.fetched
        else:
            name, share = self._called(switch.key), self._models.pool.loading(switch.key)
        words = "models.loading" if switch.key is not None else "models.fetching"
        return t(words, name=name, percent=int(100 * share), seconds=seconds)

    def _called(self, key: object) -> str:
        return self._models.catalog.label(str(key))

    def _facts_of(self, info: ModelInfo, own_machine: bool, t: Translator) -> str:
        lonely = self._models.catalog.has_only_embedded()
        facts = model_facts(info, lonely, t)
        if not (lonely and own_machine):
            return facts
        return facts + html("<p>{{ text }}</p>", text=t("models.type_one"))
