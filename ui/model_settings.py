"""The settings as one model has them: how far the sliders go, its presets, and what is set at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ui.presets import PRESET_FIELDS, preset_of, presets
from ui.sampling_fields import MAIN_FIELDS, MORE_FIELDS, SamplingField, default

SLIDERS = {slider.name: slider for slider in (*MAIN_FIELDS, *MORE_FIELDS)}


@dataclass(frozen=True)
class ModelSettings:
    """`context` is the most tokens of an answer; `recommended` are the model's own values, if any."""

    context: int
    recommended: Mapping[str, float] = field(default_factory=dict)

    def slider(self, name: str) -> SamplingField:
        """A setting's range: no answer can be longer than what the model can hold."""
        general = SLIDERS[name]
        return replace(general, high=min(general.high, self.context)) if name == "max_tokens" else general

    def presets(self) -> Mapping[str, Mapping[str, float]]:
        """Every preset by its name, the default first."""
        return presets(self._own())

    def preset_of(self, values: Mapping[str, object]) -> str | None:
        """The name of the preset that these values are, or None."""
        return preset_of(values, self._own())

    def defaults(self) -> dict[str, Any]:
        """What is set at first, by name."""
        best = next(iter(self.presets().values()))
        tokens = min(default("max_tokens"), self.context // 2)
        sliders = {name: best.get(name, tokens) for name in SLIDERS}
        return {"system_prompt": "", **sliders, "seed": None, "stop": "", "overflow": "drop"}

    def fitted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with each slider's within its range: the engine takes more than a slider can show."""
        return {**values, **{name: self._within(name, values[name]) for name in SLIDERS}}

    def instead_of(self, before: ModelSettings, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a tab's values become when this model takes the other's place.

        What was left as the other model has it at first is as this one has it.
        """
        old, new = before.defaults(), self.defaults()
        taken = {name: new[name] if value is None else value for name, value in values.items()}
        if all(values[name] == old[name] for name in PRESET_FIELDS):
            taken |= {name: new[name] for name in PRESET_FIELDS}
        if values["max_tokens"] == old["max_tokens"]:
            taken["max_tokens"] = new["max_tokens"]
        return self.fitted(taken)

    def _own(self) -> dict[str, float]:
        return {name: self._within(name, value) for name, value in self.recommended.items()}

    def _within(self, name: str, value: float) -> float:
        return min(max(value, self.slider(name).low), self.slider(name).high)
