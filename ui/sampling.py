"""The sampling settings as a user edits them: parsing, presets, and one model's ranges and defaults.

The parameters themselves are rows of engine.config.SAMPLING_FIELDS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.config import SAMPLING_FIELDS, SamplingField, SamplingParams
from engine.errors import SettingsError

FIELDS: Mapping[str, SamplingField] = {row.name: row for row in SAMPLING_FIELDS}
SEED = FIELDS["seed"]  # the only one that may be empty, and that has a number box instead of a slider
SLIDERS: Mapping[str, SamplingField] = {name: row for name, row in FIELDS.items() if row is not SEED}
PRESET_FIELDS = tuple(name for name, row in FIELDS.items() if row.in_presets)
TEXTS = ("stop", "overflow")
MAX_STOPS = 16
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}
_BALANCED = {name: default for name in PRESET_FIELDS if (default := FIELDS[name].default) is not None}
_PRESETS: Mapping[str, Mapping[str, float]] = {
    "precise": {
        **_BALANCED,
        **{"temperature": 0.2, "repeat_penalty": 1.05, "top_p": 0.9, "top_k": 20, "min_p": 0.1},
    },
    "balanced": _BALANCED,
    "creative": {
        **_BALANCED,
        **{"temperature": 1.1, "repeat_penalty": 1.1, "top_p": 0.98, "top_k": 100, "min_p": 0.03},
    },
}


def sampling_from(values: Mapping[str, object]) -> SamplingParams:
    """Convert untyped values (a slider may send 40.0 for 40, a cleared box None) to SamplingParams.

    A missing or empty value means the default; `stop` is text, see `stops_from`. Raises SettingsError, which
    names the invalid value.
    """
    given = {name: values[name] for name in (*FIELDS, *TEXTS) if values.get(name) not in (None, "")}
    stop = stops_from(str(given.pop("stop", "")))
    checked: dict[str, Any] = {
        name: _number(FIELDS[name], value) if name in FIELDS else value for name, value in given.items()
    }
    return SamplingParams(**checked, stop=stop)


def stops_from(text: str) -> tuple[str, ...]:
    r"""Return the stop strings of a text, one a line, with the escapes `\n`, `\t` and `\\`; skip empty lines.

    Raises SettingsError when there are more than MAX_STOPS.
    """
    stops = tuple(
        re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found.group()], line) for line in text.splitlines() if line
    )
    if len(stops) > MAX_STOPS:
        raise SettingsError(f"stop has {len(stops)} lines: use at most {MAX_STOPS}")
    return stops


def _number(row: SamplingField, value: object) -> float | int:
    try:
        number = float(value)  # type: ignore[arg-type]  # the except clause handles the others
    except (TypeError, ValueError):
        raise SettingsError(
            f"{row.name}={value!r} is not a number: use {row.low:g} to {row.high:g}"
        ) from None
    if row.type is float:
        return number
    if not number.is_integer():
        raise SettingsError(f"{row.name}={value!r} is not a whole number")
    return int(number)


def presets(recommended: Mapping[str, float]) -> dict[str, Mapping[str, float]]:
    """Return the presets by name, the default first.

    That is "own" if the model recommends any value, with the other values from "balanced"; else "balanced".
    """
    if not recommended:
        order = ("balanced", "precise", "creative")
        return {name: _PRESETS[name] for name in order}
    return {"own": {**_BALANCED, **recommended}, **_PRESETS}


def preset_of(values: Mapping[str, object], recommended: Mapping[str, float]) -> str | None:
    """Return the name of the preset that equals these values, or None."""
    for name, preset in presets(recommended).items():
        if all(values.get(key) == value for key, value in preset.items()):
            return name
    return None


@dataclass(frozen=True)
class ModelSettings:
    """The ranges, presets and defaults of the settings for one model.

    `context` limits the tokens of an answer; `recommended` are the values in the model's file, if any.
    """

    context: int
    recommended: Mapping[str, float] = field(default_factory=dict)

    def slider(self, name: str) -> SamplingField:
        """Return a slider's row; `max_tokens` ends at the model's context."""
        row = SLIDERS[name]
        return replace(row, high=min(row.high, self.context)) if name == "max_tokens" else row

    def presets(self) -> Mapping[str, Mapping[str, float]]:
        """Return the presets by name, the default first."""
        return presets(self._own())

    def preset_of(self, values: Mapping[str, object]) -> str | None:
        """Return the name of the preset that equals these values, or None."""
        return preset_of(values, self._own())

    def defaults(self) -> dict[str, Any]:
        """Return the initial value of every setting, by name."""
        preset = next(iter(self.presets().values()))
        sliders = {name: preset.get(name, row.default) for name, row in SLIDERS.items()}
        return {"system_prompt": "", **sliders, "seed": None, "stop": "", "overflow": "drop"}

    def fitted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Clamp each value to its slider's range, which is narrower than the engine's."""
        return {**values, **{name: self._clamp(name, values[name]) for name in SLIDERS}}

    def instead_of(self, before: ModelSettings, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tab's values after a switch from the model of `before` to this one.

        Values that were left at the other model's defaults become this one's defaults.
        """
        old, new = before.defaults(), self.defaults()
        switched = {name: new[name] if value is None else value for name, value in values.items()}
        if all(values[name] == old[name] for name in PRESET_FIELDS):
            switched |= {name: new[name] for name in PRESET_FIELDS}
        if values["max_tokens"] == old["max_tokens"]:
            switched["max_tokens"] = new["max_tokens"]
        return self.fitted(switched)

    def _own(self) -> dict[str, float]:
        return {name: self._clamp(name, value) for name, value in self.recommended.items()}

    def _clamp(self, name: str, value: float) -> float:
        return min(max(value, self.slider(name).low), self.slider(name).high)
