"""The controls of the settings, each with one line of explanation."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ui.sampling_fields import SamplingField
from ui.translation import text


def system_prompt_box() -> gr.Textbox:
    """Who the model should be."""
    return gr.Textbox(
        label=text("settings.system_prompt"),
        info=text("settings.system_prompt.info"),
        placeholder=text("settings.system_prompt.example"),
        lines=3,
        max_lines=8,
        elem_id="set-system-prompt",
    )


def preset_choice(names: Sequence[str]) -> gr.Radio:
    """The presets by their names; the first is the default."""
    return gr.Radio(
        [(text(f"settings.preset.{name}"), name) for name in names],
        value=names[0],
        label=text("settings.preset"),
        info=text("settings.preset.info"),
        elem_id="set-preset",
    )


def slider(field: SamplingField, value: float) -> gr.Slider:
    """A number within its range."""
    return gr.Slider(
        minimum=field.low,
        maximum=field.high,
        step=field.step,
        value=value,
        label=text(field.label),
        info=text(field.info),
        buttons=[],
        elem_id=f"set-{field.name}",
    )


def seed_box(field: SamplingField) -> gr.Number:
    """A whole number, or nothing."""
    return gr.Number(
        label=text(field.label),
        info=text(field.info),
        value=None,
        placeholder=text("settings.seed.random"),
        precision=0,
        minimum=field.low,
        maximum=field.high,
        elem_id="set-seed",
    )


def stop_box() -> gr.Textbox:
    """Stop strings, one a line."""
    return gr.Textbox(
        label=text("settings.stop"),
        info=text("settings.stop.info"),
        placeholder=text("settings.stop.example"),
        lines=2,
        max_lines=6,
        elem_id="set-stop",
    )


def overflow_choice() -> gr.Radio:
    """What becomes of a conversation that no longer fits."""
    return gr.Radio(
        [(text("settings.overflow.drop"), "drop"), (text("settings.overflow.refuse"), "refuse")],
        value="drop",
        label=text("settings.overflow"),
        info=text("settings.overflow.info"),
        elem_id="set-overflow",
    )
