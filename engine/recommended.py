"""How a model's makers would have it sampled: their generation_config.json, as it is found in a GGUF.

llama.cpp's converter copies it to `general.sampling.*` (gguf-py/gguf/metadata.py, `Metadata.load`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import SettingsError
from engine.settings import SamplingSettings

_KEYS = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
}


def recommended(metadata: Callable[[str], str]) -> dict[str, float]:
    """What the file recommends, by the names of SamplingSettings; what makes no sense is left out.

    `metadata` gives a key's value as text, or "" when the file does not have it.
    """
    found = ((name, _number(name, metadata(key))) for name, key in _KEYS.items())
    return {name: value for name, value in found if value is not None}


def sampling_over(recommended: Mapping[str, float], given: Mapping[str, Any]) -> SamplingSettings:
    """What a caller has given, over what the model's file recommends, over the defaults of everybody.

    Both by the names of SamplingSettings. Raises SettingsError.
    """
    return SamplingSettings(**{**recommended, **given})


def _number(name: str, text: str) -> float | None:
    try:
        value = int(text) if name == "top_k" else round(float(text), 6)  # float32 as it was written
        SamplingSettings(**{name: value})  # type: ignore[arg-type]  # the name is one of _KEYS
    except (ValueError, SettingsError):
        return None
    return value
