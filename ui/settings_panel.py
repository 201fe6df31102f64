"""The settings at the side: the system prompt and how an answer is sampled; the browser remembers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.context import Context

from engine.settings import SamplingSettings
from ui.presets import PRESET_FIELDS, preset_of, presets
from ui.remembered import STORAGE_KEY, VERSION, remembered
from ui.sampling_fields import FIELDS, MAIN_FIELDS, MORE_FIELDS, SEED, SamplingField, default, sampling_from
from ui.setting_controls import overflow_choice, preset_choice, seed_box, slider, stop_box, system_prompt_box
from ui.translation import text

NAMES = ("system_prompt", *(field.name for field in FIELDS), "stop", "overflow")
QUICK: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
_REMEMBER = (
    f"(...values) => [{{version: {VERSION}, values: "
    f"Object.fromEntries({list(NAMES)}.map((name, i) => [name, values[i]]))}}]"
)


class SettingsPanel:
    """Lays out the controls; `components` are an event's inputs, in the order that `read` takes them."""

    def __init__(self, context: int, recommended: Mapping[str, float] | None = None) -> None:
        """`context` is the most tokens of an answer; `recommended` are the model's own values, if any."""
        self._fields = {field.name: _fitted(field, context) for field in FIELDS}
        self._recommended = {
            name: _within(self._fields[name], value) for name, value in (recommended or {}).items()
        }
        self._presets = presets(self._recommended)
        self._defaults = self._default_values(context)
        with gr.Sidebar(
            label=text("settings.label"), open=False, position="right", width=320, elem_id="settings"
        ):
            gr.Markdown(text("settings.title"))
            self._preset, controls, reset = self._lay_out()
        self.components = [controls[name] for name in NAMES]
        # The key hides the values from nobody: it only has to be the same after a restart.
        self._memory = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_KEY)
        self._wire(controls, reset)

    @staticmethod
    def read(values: Sequence[Any]) -> tuple[str, SamplingSettings]:
        """The components' values -> system prompt and settings; raises SettingsError when out of range."""
        named = dict(zip(NAMES, values, strict=True))
        return str(named["system_prompt"] or ""), sampling_from(named)

    def _lay_out(self) -> tuple[gr.Radio, dict[str, gr.components.Component], gr.Button]:
        controls: dict[str, gr.components.Component] = {"system_prompt": system_prompt_box()}
        preset = preset_choice(list(self._presets))
        for field in MAIN_FIELDS:
            controls[field.name] = slider(self._fields[field.name], self._defaults[field.name])
        with gr.Accordion(text("settings.more"), open=False, elem_id="more-settings"):
            for field in MORE_FIELDS:
                controls[field.name] = slider(self._fields[field.name], self._defaults[field.name])
            controls |= {"seed": seed_box(SEED), "stop": stop_box(), "overflow": overflow_choice()}
        return preset, controls, gr.Button(text("settings.reset"), size="sm", elem_id="reset-settings")

    def _wire(self, controls: Mapping[str, Any], reset: gr.Button) -> None:
        """Every change by hand is remembered in the browser, without asking the server."""
        keep: dict[str, Any] = {"inputs": self.components, "outputs": [self._memory], "js": _REMEMBER}
        everything = [*self.components, self._preset]
        gr.on([control.input for control in controls.values()], None, api_visibility="private", **keep)
        gr.on(
            [controls[name].input for name in PRESET_FIELDS],
            *(None, None, [self._preset]),
            js="() => [null]",
            api_visibility="private",
        )
        chosen = self._preset.input(
            self._apply, [self._preset], [controls[name] for name in PRESET_FIELDS], **QUICK
        )
        cleared = reset.click(lambda: self._shown(self._defaults), None, everything, **QUICK)
        for done in (chosen, cleared):
            done.then(None, api_visibility="private", **keep)
        page = Context.root_block
        assert page is not None, "a panel is laid out inside of a page"
        page.load(self._restore, [self._memory], everything, **QUICK)

    def _apply(self, name: str) -> list[float]:
        return [self._presets[name][field] for field in PRESET_FIELDS]

    def _restore(self, stored: object) -> list[Any]:
        values = remembered(stored, self._defaults)
        for field in (*MAIN_FIELDS, *MORE_FIELDS):  # the engine takes more than a slider can show
            values[field.name] = _within(self._fields[field.name], values[field.name])
        return self._shown(values)

    def _shown(self, values: Mapping[str, Any]) -> list[Any]:
        return [*(values[name] for name in NAMES), preset_of(values, self._recommended)]

    def _default_values(self, context: int) -> dict[str, Any]:
        best = next(iter(self._presets.values()))
        tokens = min(default("max_tokens"), context // 2)
        return {
            "system_prompt": "",
            **{field.name: best.get(field.name, tokens) for field in (*MAIN_FIELDS, *MORE_FIELDS)},
            **{"seed": None, "stop": "", "overflow": "drop"},
        }


def _fitted(field: SamplingField, context: int) -> SamplingField:
    """No answer can be longer than what the model can hold."""
    return replace(field, high=min(field.high, context)) if field.name == "max_tokens" else field


def _within(field: SamplingField, value: float) -> float:
    return min(max(value, field.low), field.high)
