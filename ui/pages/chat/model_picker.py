"""The model picker in the page's head: it switches the model of one browser tab.

A tab switches once the model has loaded; until then, and when loading fails, it keeps its model. Other tabs
are not affected. The browser remembers the choice for its next visit, when the server checks it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.errors import ModelError, foreseen
from engine.types import ModelInfo
from ui.auth.identity import on_own_machine
from ui.i18n.words import Translator, text, translator
from ui.models.files import hub_choices
from ui.models.registry import Models, acquire_model
from ui.pages.assets import ADDRESS
from ui.pages.chat.shield import shield
from ui.render.html import html, render
from ui.render.status import line, model_facts, model_name

TICK = 0.5  # seconds between two updates of the loading time
Update = tuple[Any, Any, Any, Any, Any, Any]
NO_UPDATE: Update = (gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip())


@dataclass
class _Switch:
    """A model switch: the requested model, its key once known, the downloaded share, whether the tab left."""

    wanted: object
    key: str | None = None
    fetched: float = 0.0
    left: bool = False

    def fetch(self, share: float) -> bool:
        """Record the downloaded share (0 to 1); return False to stop the download."""
        self.fetched = max(self.fetched, share)
        return not self.left


@dataclass
class Tab:
    """A tab's state: how often a model was chosen by hand. Only the last choice counts.

    After one the last visit's model is not restored any more.
    """

    choices: int = 0


def _note(text: str, picker: Any = NO_UPDATE[0]) -> Update:
    """Return an update of the line below the head, and perhaps of the picker."""
    return picker, gr.skip(), gr.skip(), text, gr.skip(), gr.skip()


class ModelsPanel:
    """The picker; `key` holds the pool's key of the tab's model, `switched` are the events that change it."""

    def __init__(self, models: Models, own_machine: bool) -> None:
        self._models = models
        self._infos = dict[str, ModelInfo]()  # of the models chosen so far
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
        self._facts = gr.HTML(padding=False, elem_id="facts")
        self._shield = gr.HTML(padding=False, elem_id="shield")

    def show_below(self, info: ModelInfo) -> None:
        """Lay out the lines under the head: a switch's progress or error, and what is wrong with files."""
        self._name.value = model_name(info)
        self._note = gr.HTML("", padding=False, elem_id="model-note")
        self._warning = gr.HTML("", padding=False, elem_id="model-warning")

    def wire(self, page: gr.Blocks) -> None:
        """Connect the picker, and restore the browser's choice when the page loads."""
        outputs = [self._picker, self.key, self._kept, self._note, self._facts, self._name]
        quiet: dict[str, Any] = {
            "outputs": outputs,
            "concurrency_limit": None,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        chosen = self._picker.input(
            self._choose, [self._picker, self.key, self._tab], trigger_mode="multiple", **quiet
        )
        asked = f"(kept, ...rest) => [{ADDRESS}.model ? {{address: {ADDRESS}.model}} : kept, ...rest]"
        restored = page.load(self._restore, [self._kept, self.key, self._tab], js=asked, **quiet)
        self.switched = [chosen, restored]
        for event in self.switched:
            self.warn_after(event)
            event.then(self._shielded, [self.key], **{**quiet, "outputs": [self._shield]})

    def warn_after(self, event: gr.events.Dependency) -> None:
        """Show what is wrong with the model's files after an event."""
        event.then(
            self._warn,
            [self.key],
            [self._warning],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def tidy_after(self, event: gr.events.Dependency) -> None:
        """The same after an answer, which also ends what was said of an earlier choice of model."""

        def tidied(request: gr.Request, key: str) -> tuple[str, str]:
            return self._warn(request, key), ""

        event.then(
            tidied,
            [self.key],
            [self._warning, self._note],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def _warn(self, request: gr.Request, key: str) -> str:
        change = self._models.change(key)
        return line(change.text(translator(request)), "error") if change else ""

    def _shielded(self, request: gr.Request, key: str) -> str:
        info = self._infos.get(key)
        with_adapter = info is not None and bool(info.adapter)
        return shield(self._models, key, translator(request), adapter=with_adapter)

    def info_of(self, key: str) -> ModelInfo | None:
        """Return a model's facts, or None before any tab has chosen it."""
        return self._infos.get(key)

    async def _choose(
        self, request: gr.Request, wanted: object, now: str, tab: Tab
    ) -> AsyncGenerator[Update, None]:
        tab.choices += 1
        mine = tab.choices
        async with aclosing(self._chosen(request, wanted, now)) as updates:
            async for update in updates:
                if tab.choices != mine:
                    yield NO_UPDATE
                    return
                yield update

    async def _chosen(self, request: gr.Request, wanted: object, now: str) -> AsyncGenerator[Update, None]:
        if on_own_machine(request) and self._models.catalog.leaves_open(wanted):
            t = translator(request)
            yield _note(line(t("models.listing", name=wanted), "busy"))
            offered = await self._offer(str(wanted).strip(), now, t)
            if offered is not None:
                yield offered
                return
        async with aclosing(self._switch(request, wanted, now)) as updates:
            async for update in updates:
                yield update

    async def _offer(self, repository: str, now: str, t: Translator) -> Update | None:
        """Offer the files of a repository on the Hub, with their sizes; None where it has a single one."""
        try:
            files = await asyncio.to_thread(hub_choices, repository)
        except Exception as error:  # noqa: BLE001 - the boundary, as below
            return self._refused(error, now, t)
        if len(files) == 1:
            return None
        note = t("models.choose_file", name=repository, count=len(files))
        choices = [*files, *self._models.catalog.choices(own_machine=True)]
        return _note(line(note, "busy"), gr.update(choices=choices, value=now))

    def _refused(self, error: Exception, now: str, t: Translator) -> Update:
        """Say why a model was not loaded, and show the present one's name again."""
        note = t("models.kept", error=foreseen(error), name=self._called(now))
        return _note(line(note, "error"), gr.update(value=now))

    async def _restore(
        self, request: gr.Request, kept: object, now: str, tab: Tab
    ) -> AsyncGenerator[Update, None]:
        """Switch a new tab to the model of the page's address, or to the last visit's.

        That is done if it is offered and no other was chosen. An address never loads a file by its path or
        from the Hub: anybody may write one. `kept` is {"address": key} for the model of the address.
        """
        own = on_own_machine(request)
        if isinstance(kept, dict) and not self._models.catalog.allows(kept := kept.get("address"), own):
            t = translator(request)
            error = ModelError(f"model {str(kept)[:80]!r} is not offered here: choose one of the list")
            note = line(t("models.kept", error=error, name=self._called(now)), "error")
            yield _note(note)
            return
        wanted = kept if self._models.catalog.allows(kept, own) else now
        async with aclosing(self._switch(request, wanted, now)) as updates:
            async for update in updates:
                if tab.choices:
                    yield NO_UPDATE  # without an update Gradio would clear the outputs
                    return
                yield update

    async def _switch(self, request: gr.Request, wanted: object, now: str) -> AsyncGenerator[Update, None]:
        """Load `wanted` with progress and make it the tab's model; after an error keep `now`."""
        t, own = translator(request), on_own_machine(request)
        switch = _Switch(wanted)
        loading = asyncio.ensure_future(self._ready(switch, own))
        began = time.monotonic()
        try:
            while not (await asyncio.wait({loading}, timeout=TICK))[0]:
                note = self._loading(switch, int(time.monotonic() - began), t)
                yield _note(line(note, "busy"))
            key, info = loading.result()
            self._infos[key] = info
        except Exception as error:  # noqa: BLE001 - the boundary: the note would say "Loading" for good
            yield self._refused(error, now, t)
            return
        finally:
            switch.left = True
            loading.cancel()
        choices = gr.update(choices=self._models.catalog.choices(own), value=key)
        yield choices, key, key, "", self._facts_of(info, own, t), model_name(info)

    async def _ready(self, switch: _Switch, own_machine: bool) -> tuple[str, ModelInfo]:
        """Load the model, downloading it first, in a thread, if a Hub name was typed."""
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
        if lonely and own_machine:
            facts += html("<p>{{ text }}</p>", text=t("models.type_one"))
        return render("facts", label=t("models.about"), facts=facts)
