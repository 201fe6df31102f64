"""The settings of an answer as people see them: name and range. Their words are in ui.texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from engine.errors import SettingsError
from engine.settings import SamplingSettings


@dataclass(frozen=True)
class SamplingField:
    """One setting. `low`, `high` and `step` are what the page's slider offers; the engine allows more."""

    name: str
    low: float
    high: float
    step: float

    @property
    def label(self) -> str:
        """The key of its name in ui.texts."""
        return f"settings.{self.name}"

    @property
    def info(self) -> str:
        """The key of its line of explanation in ui.texts."""
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


def default(name: str) -> float:
    """A setting's default, from the engine's own settings, so that there is one source."""
    value = next(field.default for field in fields(SamplingSettings) if field.name == name)
    if not isinstance(value, (int, float)):
        raise KeyError(name)
    return value


def sampling_from(values: Mapping[str, object]) -> SamplingSettings:
    """Loose values (a slider may send 40.0 for 40, a cleared field None) -> checked settings.

    A missing or empty value means the default; a SettingsError names the value that is out of range.
    """
    given = {field.name: values.get(field.name) for field in FIELDS}
    numbers = {name: _number(name, value) for name, value in given.items() if value not in (None, "")}
    return SamplingSettings(**numbers)  # type: ignore[arg-type]  # whole where the field is whole


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
