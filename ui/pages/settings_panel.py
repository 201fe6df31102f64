"""The settings sidebar: system prompt and sampling parameters, remembered by the browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import gradio as gr
from gradio.context import Context

from engine.config import Overflow, SamplingField, SamplingParams
from engine.types import ModelInfo
from ui.i18n.words import text, translator
from ui.pages.presets import Presets
from ui.pages.shell import line_of_text
from ui.sampling import (
    FIELDS,
    MAX_STOPS,
    PRESET_FIELDS,
    SEED,
    SLIDERS,
    ModelSettings,
    sampling_from,
)
from ui.static import STATIC

STORAGE_KEY = "gguf-chat.settings"
VERSION = 2
MAX_TEXT = 20_000  # characters; a longer stored text is not restored
TEXTS = ("system_prompt", "stop")
_RESTORE = (STATIC / "settings_storage.js").read_text(encoding="utf-8")
_RESTORED = "document.documentElement.dataset.settings"  # set once a page has restored the settings


def built(names: Sequence[str], first: ModelSettings) -> dict[str, Any]:
    """Return the fields and presets for settings_storage.js; `first` is the default model's."""
    values = first.defaults()
    fields = [{"name": name, "value": values[name], **_kind(name, first)} for name in names]
    return {"version": VERSION, "fields": fields, "presets": first.presets()}


def restore(names: Sequence[str], first: ModelSettings) -> str:
    """Return a JS function: (stored, *shown values) -> [to store, *values, preset]."""
    call = f"({_RESTORE})({json.dumps(built(names, first))}, ...now)"
    return f"(...now) => {{ {_RESTORED} = 'restored'; return {call}; }}"


def apply_own(names: Sequence[str], first: ModelSettings) -> str:
    """Return a JS function: (values by name) -> [*values, preset]. What is out of range gets its default."""
    shown = json.dumps([first.defaults()[name] for name in names])
    stored = f"{{version: {VERSION}, values}}"
    return f"(values) => ({_RESTORE})({json.dumps(built(names, first))}, {stored}, ...{shown}).slice(1)"


def remember(names: Sequence[str]) -> str:
    """Return a JS function: (*shown values) -> [to store], or [] before the settings are restored."""
    values = f"Object.fromEntries({list(names)}.map((name, i) => [name, values[i]]))"
    return f"(...values) => {_RESTORED} ? [{{version: {VERSION}, values: {values}}}] : []"


def remember_texts(names: Sequence[str]) -> str:
    """Return a JS function: (stored, *shown values) -> [to store], or [] when no text has changed."""
    places = {name: names.index(name) for name in TEXTS}
    changed = "([name, i]) => (values[i] ?? '') !== (stored?.values?.[name] ?? '')"
    any_changed = f"Object.entries({json.dumps(places)}).some({changed})"
    return f"(stored, ...values) => {any_changed} ? ({remember(names)})(...values) : []"


def _kind(name: str, first: ModelSettings) -> dict[str, Any]:
    if name in FIELDS:
        row = SEED if name == SEED.name else first.slider(name)
        kind = "number" if row is SEED else "slider"
        return {"kind": kind, "low": row.low, "high": row.high, "whole": row.type is int}
    if name == "overflow":
        return {"kind": "choice", "choices": get_args(Overflow)}
    return {"kind": "text", "longest": MAX_TEXT, "lines": MAX_STOPS if name == "stop" else MAX_TEXT}


def system_prompt_box() -> gr.Textbox:
    """Create the box of the system prompt."""
    return gr.Textbox(
        label=text("settings.system_prompt"),
        info=text("settings.system_prompt.info"),
        placeholder=text("settings.system_prompt.example"),
        lines=3,
        max_lines=8,
        elem_id="set-system-prompt",
    )


def preset_choice(names: Sequence[str]) -> gr.Radio:
    """Create the choice of presets; the first is the default."""
    return gr.Radio(
        [(text(f"settings.preset.{name}"), name) for name in names],
        value=names[0],
        label=text("settings.preset"),
        info=text("settings.preset.info"),
        elem_id="set-preset",
    )


def slider(row: SamplingField, value: float) -> gr.Slider:
    """Create the slider of a sampling parameter."""
    return gr.Slider(
        minimum=row.low,
        maximum=row.high,
        step=row.step,
        value=value,
        label=text(f"settings.{row.name}"),
        info=text(f"settings.{row.name}.info"),
        buttons=[],
        elem_id=f"set-{row.name}",
    )


def seed_box(row: SamplingField) -> gr.Number:
    """Create the box of the seed, which may be empty."""
    return gr.Number(
        label=text(f"settings.{row.name}"),
        info=text(f"settings.{row.name}.info"),
        value=None,
        placeholder=text("settings.seed.random"),
        precision=0,
        minimum=row.low,
        maximum=row.high,
        elem_id="set-seed",
    )


def stop_box() -> gr.Textbox:
    """Create the box of stop strings, one a line."""
    return gr.Textbox(
        label=text("settings.stop"),
        info=text("settings.stop.info"),
        placeholder=text("settings.stop.example"),
        lines=2,
        max_lines=6,
        elem_id="set-stop",
    )


def overflow_choice() -> gr.Radio:
    """Create the choice of what happens to a conversation that no longer fits."""
    return gr.Radio(
        [(text("settings.overflow.drop"), "drop"), (text("settings.overflow.refuse"), "refuse")],
        value="drop",
        label=text("settings.overflow"),
        info=text("settings.overflow.info"),
        elem_id="set-overflow",
    )


NAMES = ("system_prompt", *FIELDS, "stop", "overflow")
QUICK: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
IN_BROWSER: dict[str, Any] = {"fn": None, "api_visibility": "private"}


class SettingsPanel:
    """The controls; `components` are inputs for events, in the order that `read` expects."""

    def __init__(self, context: int, recommended: Mapping[str, float] | None = None) -> None:
        """Lay out the controls; `context` and `recommended` are the default model's: see ModelSettings."""
        first = ModelSettings(context, recommended or {})
        self._model = gr.State(first)  # whose ranges, presets and defaults this tab has
        with gr.Sidebar(
            label=text("settings.label"), open=False, position="right", width=360, elem_id="settings"
        ):
            line_of_text("settings.title", "h2")
            self._preset, controls, reset = _lay_out(first)
            self._own = Presets()
        self.components = [controls[name] for name in NAMES]
        # The key is no secret: it only has to be the same after a restart.
        self._memory = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_KEY)
        self._wire(controls, reset)
        self._remember(controls, restore(NAMES, first), apply_own(NAMES, first))

    @staticmethod
    def read(values: Sequence[Any]) -> tuple[str, SamplingParams]:
        """Convert the components' values to the system prompt and SamplingParams. Raises SettingsError."""
        named = dict(zip(NAMES, values, strict=True))
        return str(named["system_prompt"] or ""), sampling_from(named)

    def follow(
        self, switches: Sequence[Any], key: gr.State, info_of: Callable[[str], ModelInfo | None]
    ) -> None:
        """After these events, switch to the ranges and defaults of the model of `key`."""

        def switched(request: gr.Request, key: str, before: ModelSettings, *values: Any) -> list[Any]:
            info = info_of(key)
            now = before if info is None else ModelSettings(info.context, info.recommended)
            if now == before:
                return [gr.skip()] * len(outputs)
            held = dict(zip(NAMES, values, strict=True))
            named = now.instead_of(before, held)
            # Unchanged values are not sent: the user may be editing them right now.
            sent = {name: {"value": value} for name, value in named.items() if value != held[name]}
            sent["max_tokens"] = {**sent.get("max_tokens", {}), "maximum": now.slider("max_tokens").high}
            shown = [gr.update(**sent.get(name, {})) for name in NAMES]
            t, preset = translator(request), now.preset_of(named)
            choices = [(t(f"settings.preset.{name}"), name) for name in now.presets()]
            return [now, *shown, gr.update(choices=choices, value=preset)]

        outputs = [self._model, *self.components, self._preset]
        for event in switches:  # of quick successive switches, only the last counts
            event.then(
                switched, [key, self._model, *self.components], outputs, trigger_mode="always_last", **QUICK
            )

    def _wire(self, controls: Mapping[str, Any], reset: gr.Button) -> None:
        """Connect the presets and the reset button."""
        of_preset = [controls[name] for name in PRESET_FIELDS]
        changes = [control.input for control in of_preset]
        gr.on(changes, outputs=[self._preset], js="() => [null]", **IN_BROWSER)
        chosen = self._preset.input(_apply, [self._preset, self._model], of_preset, **QUICK)
        cleared = reset.click(_reset, [self._model], [*self.components, self._preset], **QUICK)
        for done in (chosen, cleared):
            done.then(inputs=self.components, outputs=[self._memory], js=remember(NAMES), **IN_BROWSER)

    def _remember(self, controls: Mapping[str, Any], restore: str, own: str) -> None:
        """Store every change in the browser, and restore it there, without the server."""
        changes = [control.input for control in controls.values()]
        gr.on(changes, inputs=self.components, outputs=[self._memory], js=remember(NAMES), **IN_BROWSER)
        # A text box's input event covers typing only, not pasting or cutting.
        everything, left = [self._memory, *self.components], [controls[name].blur for name in TEXTS]
        gr.on(left, inputs=everything, outputs=[self._memory], js=remember_texts(NAMES), **IN_BROWSER)
        page = Context.root_block
        assert page is not None, "a panel is laid out inside of a page"
        page.load(inputs=everything, outputs=[*everything, self._preset], js=restore, **IN_BROWSER)
        applied = self._own.wire(page, NAMES, self.components, [*self.components, self._preset], own)
        applied.then(inputs=self.components, outputs=[self._memory], js=remember(NAMES), **IN_BROWSER)


def _lay_out(first: ModelSettings) -> tuple[gr.Radio, dict[str, gr.components.Component], gr.Button]:
    controls: dict[str, gr.components.Component] = {"system_prompt": system_prompt_box()}
    preset, values = preset_choice(list(first.presets())), first.defaults()
    for name, row in SLIDERS.items():
        if row.basic:
            controls[name] = slider(first.slider(name), values[name])
    with gr.Accordion(text("settings.more"), open=False, elem_id="more-settings"):
        for name, row in SLIDERS.items():
            if not row.basic:
                controls[name] = slider(first.slider(name), values[name])
        controls |= {"seed": seed_box(SEED), "stop": stop_box(), "overflow": overflow_choice()}
    return preset, controls, gr.Button(text("settings.reset"), size="sm", elem_id="reset-settings")


def _apply(name: str, model: ModelSettings) -> list[float]:
    return [model.presets()[name][field] for field in PRESET_FIELDS]


def _reset(model: ModelSettings) -> list[Any]:
    values = model.defaults()
    return [*(values[name] for name in NAMES), model.preset_of(values)]
