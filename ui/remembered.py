"""The settings that a browser keeps for its user, which may be of an older version, or anything at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import SettingsError
from ui.sampling_fields import sampling_from

STORAGE_KEY = "gguf-chat.settings"
VERSION = 1
LONGEST_TEXT = 20_000  # characters of a system prompt that is taken back
_TEXTS = ("system_prompt", "stop", "overflow")


def remembered(stored: object, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, with every value of the browser's in their place that is in order."""
    if not isinstance(stored, Mapping) or stored.get("version") != VERSION:
        return dict(defaults)
    values = stored.get("values")
    given = values if isinstance(values, Mapping) else {}
    usable = {name: given[name] for name in defaults if _usable(name, given.get(name))}
    return {**defaults, **usable}


def _usable(name: str, value: object) -> bool:
    if name in _TEXTS:
        if not isinstance(value, str) or len(value) > LONGEST_TEXT:
            return False
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        sampling_from({name: value})
    except SettingsError:
        return False
    return True
