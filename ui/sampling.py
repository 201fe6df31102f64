"""The settings of an answer as people see them: name and range. Their words are in ui.i18n.words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from engine.config import SamplingParams
from engine.errors import SettingsError

MOST_STOPS = 16
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


@dataclass(frozen=True)
class SamplingField:
    """One setting. `low`, `high` and `step` are what the page's slider offers; the engine allows more."""

    name: str
    low: float
    high: float
    step: float

    @property
    def label(self) -> str:
        """The key of its name in ui.i18n.words."""
        return f"settings.{self.name}"

    @property
    def info(self) -> str:
        """The key of its line of explanation in ui.i18n.words."""
        return f"settings.{self.name}.info"

    @property
    def whole(self) -> bool:
        """Whether only whole numbers make sense."""
        return isinstance(self.step, int)


MAIN_FIELDS = (
    SamplingField("temperature", 0, 2, 0.05),
    SamplingField("max_tokens", 16, 4096, 16),
    SamplingField("repeat_penalty", 0.8, 2, 0.01),
)
MORE_FIELDS = (
    SamplingField("top_p", 0.05, 1, 0.01),
    SamplingField("top_k", 0, 200, 1),
    SamplingField("min_p", 0, 0.5, 0.01),
)
SEED = SamplingField("seed", 0, 2**32 - 1, 1)
FIELDS = (*MAIN_FIELDS, *MORE_FIELDS, SEED)
_TEXTS = ("stop", "overflow")
_NAMES = (*(field.name for field in FIELDS), *_TEXTS)


def default(name: str) -> float:
    """A setting's default, from the engine's own settings, so that there is one source."""
    value = next(field.default for field in fields(SamplingParams) if field.name == name)
    if not isinstance(value, (int, float)):
        raise KeyError(name)
    return value


def sampling_from(values: Mapping[str, object]) -> SamplingParams:
    """Loose values (a slider may send 40.0 for 40, a cleared field None) -> checked settings.

    A missing or empty value means the default; `stop` is text, see `stops_from`. A SettingsError names the
    value that is out of range.
    """
    given = {name: values[name] for name in _NAMES if values.get(name) not in (None, "")}
    texts = {name: given.pop(name) for name in _TEXTS if name in given}
    checked: dict[str, Any] = {name: _number(name, value) for name, value in given.items()}
    if "overflow" in texts:
        checked["overflow"] = texts["overflow"]
    return SamplingParams(**checked, stop=stops_from(str(texts.get("stop", ""))))


def stops_from(text: str) -> tuple[str, ...]:
    r"""Stop strings, one a line; `\n` is a line's end, `\t` a tab, `\\` a backslash. Empty lines are none."""
    stops = tuple(
        re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found.group()], line) for line in text.splitlines() if line
    )
    if len(stops) > MOST_STOPS:
        raise SettingsError(f"stop has {len(stops)} lines: use at most {MOST_STOPS}")
    return stops


def _number(name: str, value: object) -> float | int:
    field = next(field for field in FIELDS if field.name == name)
    try:
        number = float(value)  # type: ignore[arg-type]  # that is what the except is for
    except (TypeError, ValueError):
        raise SettingsError(
            f"{name}={value!r} is not a number: use {field.low:g} to {field.high:g}"
        ) from None
    if not field.whole:
        return number
    if not number.is_integer():
        raise SettingsError(f"{name}={value!r} is not a whole number")
    return int(number)


PRESET_FIELDS = ("temperature", "repeat_penalty", "top_p", "top_k", "min_p")
_BALANCED = {field.name: field.default for field in fields(SamplingParams) if field.name in PRESET_FIELDS}
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
