"""Named manners of answering: values of several settings at once, the model's own among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from engine.settings import SamplingSettings

PRESET_FIELDS = ("temperature", "repeat_penalty", "top_p", "top_k", "min_p")
_BALANCED = {field.name: field.default for field in fields(SamplingSettings) if field.name in PRESET_FIELDS}
_PRESETS: dict[str, dict[str, float]] = {
    "precise": {"temperature": 0.2, "repeat_penalty": 1.05, "top_p": 0.9, "top_k": 20, "min_p": 0.1},
    "balanced": {name: float(str(_BALANCED[name])) for name in PRESET_FIELDS},
    "creative": {"temperature": 1.1, "repeat_penalty": 1.1, "top_p": 0.98, "top_k": 100, "min_p": 0.03},
}


def presets(recommended: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Every preset by its name, the default first: "own" for a model that recommends any, else "balanced".

    What the model leaves open is as in "balanced".
    """
    if not recommended:
        order = ("balanced", "precise", "creative")
        return {name: _PRESETS[name] for name in order}
    return {"own": {**_PRESETS["balanced"], **recommended}, **_PRESETS}


def preset_of(values: Mapping[str, object], recommended: Mapping[str, float]) -> str | None:
    """The name of the preset that these values are, or None for a mixture of one's own."""
    for name, preset in presets(recommended).items():
        if all(values.get(field) == value for field, value in preset.items()):
            return name
    return None
