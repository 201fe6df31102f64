"""The settings at the side: the system prompt and how an answer is sampled; the browser remembers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.backend import ModelInfo
from engine.settings import SamplingSettings
from ui.model_settings import ModelSettings
from ui.presets import PRESET_FIELDS
from ui.remembered import STORAGE_KEY, TEXTS, remember, remember_texts, restore
from ui.sampling_fields import FIELDS, MAIN_FIELDS, MORE_FIELDS, SEED, sampling_from
from ui.setting_controls import overflow_choice, preset_choice, seed_box, slider, stop_box, system_prompt_box
from ui.texts import words
from ui.translation import text

NAMES = ("system_prompt", *(field.name for field in FIELDS), "stop", "overflow")
QUICK: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
IN_BROWSER: dict[str, Any] = {"fn": None, "api_visibility": "private"}


class SettingsPanel:
    """Lays out the controls; `components` are an event's inputs, in the order that `read` takes them."""

    def __init__(self, context: int, recommended: Mapping[str, float] | None = None) -> None:
        """`context` and `recommended` are the first model's: see ModelSettings."""
        first = ModelSettings(context, recommended or {})
        self._model = gr.State(first)  # whose ranges, presets and defaults this tab has
        with gr.Sidebar(
            label=text("settings.label"), open=False, position="right", width=320, elem_id="settings"
        ):
            gr.Markdown(text("settings.title"))
            self._preset, controls, reset = _lay_out(first)
        self.components = [controls[name] for name in NAMES]
        # The key hides the values from nobody: it only has to be the same after a restart.
        self._memory = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_KEY)
        self._wire(controls, reset)
        self._remember(controls, restore(NAMES, first))

    @staticmethod
    def read(values: Sequence[Any]) -> tuple[str, SamplingSettings]:
        """The components' values -> system prompt and settings; raises SettingsError when out of range."""
        named = dict(zip(NAMES, values, strict=True))
        return str(named["system_prompt"] or ""), sampling_from(named)

    def follow(
        self, switches: Sequence[Any], key: gr.State, info_of: Callable[[str], ModelInfo | None]
    ) -> None:
        """After these events be the settings of the model of `key`, which `info_of` knows then."""

        def switched(request: gr.Request, key: str, before: ModelSettings, *values: Any) -> list[Any]:
            info = info_of(key)
            now = before if info is None else ModelSettings(info.context, info.recommended)
            if now == before:
                return [gr.skip()] * len(outputs)
            held = dict(zip(NAMES, values, strict=True))
            named = now.instead_of(before, held)
            # What stays is not sent: somebody may be changing it just now.
            sent = {name: {"value": value} for name, value in named.items() if value != held[name]}
            sent["max_tokens"] = {**sent.get("max_tokens", {}), "maximum": now.slider("max_tokens").high}
            shown = [gr.update(**sent.get(name, {})) for name in NAMES]
            say, preset = words(request), now.preset_of(named)
            choices = [(say(f"settings.preset.{name}"), name) for name in now.presets()]
            return [now, *shown, gr.update(choices=choices, value=preset)]

        outputs = [self._model, *self.components, self._preset]
        for event in switches:  # the last of switches in quick turn is the one to follow
            event.then(
                switched, [key, self._model, *self.components], outputs, trigger_mode="always_last", **QUICK
            )

    def _wire(self, controls: Mapping[str, Any], reset: gr.Button) -> None:
        """Presets and reset."""
        of_preset = [controls[name] for name in PRESET_FIELDS]
        changes = [control.input for control in of_preset]
        gr.on(changes, outputs=[self._preset], js="() => [null]", **IN_BROWSER)
        chosen = self._preset.input(_apply, [self._preset, self._model], of_preset, **QUICK)
        cleared = reset.click(_reset, [self._model], [*self.components, self._preset], **QUICK)
        for done in (chosen, cleared):
            done.then(inputs=self.components, outputs=[self._memory], js=remember(NAMES), **IN_BROWSER)

    def _remember(self, controls: Mapping[str, Any], restore: str) -> None:
        """Every change by hand is remembered in the browser, and taken back there, without the server."""
        changes = [control.input for control in controls.values()]
        gr.on(changes, inputs=self.components, outputs=[self._memory], js=remember(NAMES), **IN_BROWSER)
        # A text box tells of typing alone, and not of what is pasted or cut.
        everything, left = [self._memory, *self.components], [controls[name].blur for name in TEXTS]
        gr.on(left, inputs=everything, outputs=[self._memory], js=remember_texts(NAMES), **IN_BROWSER)
        page = Context.root_block
        assert page is not None, "a panel is laid out inside of a page"
        page.load(inputs=everything, outputs=[*everything, self._preset], js=restore, **IN_BROWSER)


def _lay_out(first: ModelSettings) -> tuple[gr.Radio, dict[str, gr.components.Component], gr.Button]:
    controls: dict[str, gr.components.Component] = {"system_prompt": system_prompt_box()}
    preset, values = preset_choice(list(first.presets())), first.defaults()
    for field in MAIN_FIELDS:
        controls[field.name] = slider(first.slider(field.name), values[field.name])
    with gr.Accordion(text("settings.more"), open=False, elem_id="more-settings"):
        for field in MORE_FIELDS:
            controls[field.name] = slider(first.slider(field.name), values[field.name])
        controls |= {"seed": seed_box(SEED), "stop": stop_box(), "overflow": overflow_choice()}
    return preset, controls, gr.Button(text("settings.reset"), size="sm", elem_id="reset-settings")


def _apply(name: str, model: ModelSettings) -> list[float]:
    return [model.presets()[name][field] for field in PRESET_FIELDS]


def _reset(model: ModelSettings) -> list[Any]:
    values = model.defaults()
    return [*(values[name] for name in NAMES), model.preset_of(values)]
