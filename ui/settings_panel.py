"""The settings at the side: the system prompt and how an answer is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.settings import SamplingSettings
from ui.sampling_fields import FIELDS, MAIN_FIELDS, MORE_FIELDS, SEED, SamplingField, default, sampling_from
from ui.translation import text


class SettingsPanel:
    """Lays out the controls; `components` are an event's inputs, in the order that `read` takes them."""

    def __init__(self, context: int) -> None:
        self._context = context
        with gr.Sidebar(
            label=text("settings.label"), open=False, position="right", width=320, elem_id="settings"
        ):
            gr.Markdown(text("settings.title"))
            self.system_prompt = _system_prompt()
            controls: list[gr.components.Component] = [self._slider(field) for field in MAIN_FIELDS]
            with gr.Accordion(text("settings.more"), open=False):
                controls += [self._slider(field) for field in MORE_FIELDS]
                controls.append(_seed())
            reset = gr.Button(text("settings.reset"), size="sm", variant="secondary")
        self.components = [self.system_prompt, *controls]
        reset.click(
            self._defaults,
            outputs=self.components,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )

    @staticmethod
    def read(values: Sequence[Any]) -> tuple[str, SamplingSettings]:
        """The components' values -> system prompt and settings; raises SettingsError when out of range."""
        system_prompt, *numbers = values
        names = [field.name for field in FIELDS]
        return str(system_prompt or ""), sampling_from(dict(zip(names, numbers, strict=True)))

    def _slider(self, field: SamplingField) -> gr.Slider:
        return gr.Slider(
            minimum=field.low,
            maximum=self._highest(field),
            step=field.step,
            value=self._default(field),
            label=text(field.label),
            info=text(field.info),
            buttons=[],
            elem_id=f"set-{field.name}",
        )

    def _highest(self, field: SamplingField) -> float:
        """No answer can be longer than what the model can hold."""
        return min(field.high, self._context) if field.name == "max_tokens" else field.high

    def _default(self, field: SamplingField) -> float:
        value = default(field.name)
        return min(value, self._context // 2) if field.name == "max_tokens" else value

    def _defaults(self) -> list[Any]:
        return ["", *(self._default(field) for field in (*MAIN_FIELDS, *MORE_FIELDS)), None]


def _system_prompt() -> gr.Textbox:
    return gr.Textbox(
        label=text("settings.system_prompt"),
        info=text("settings.system_prompt.info"),
        placeholder=text("settings.system_prompt.example"),
        lines=3,
        max_lines=8,
        elem_id="set-system-prompt",
    )


def _seed() -> gr.Number:
    return gr.Number(
        label=text(SEED.label),
        info=text(SEED.info),
        value=None,
        placeholder=text("settings.seed.random"),
        precision=0,
        minimum=SEED.low,
        maximum=SEED.high,
        elem_id="set-seed",
    )
