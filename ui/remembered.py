"""What a browser remembers of the settings, as JavaScript that keeps it and takes it back.

Between a page that opens and its settings lies no trip to the server: its answer would overwrite what was
changed meanwhile. What is stored may be of an older version, or anything at all: remembered.js drops what the
page cannot show, and the server checks all that it is sent, as ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from engine.settings import Overflow
from ui.model_settings import SLIDERS, ModelSettings
from ui.sampling_fields import MOST_STOPS, SEED

STORAGE_KEY = "gguf-chat.settings"
VERSION = 1
LONGEST_TEXT = 20_000  # characters of a system prompt that is taken back
TEXTS = ("system_prompt", "stop")
_RESTORE = Path(__file__).with_name("remembered.js").read_text(encoding="utf-8")
_RESTORED = "document.documentElement.dataset.settings"  # set once a page shows what was remembered


def built(names: Sequence[str], first: ModelSettings) -> dict[str, Any]:
    """How a page is built, as remembered.js wants to know it: `first` is the model that it starts with."""
    values = first.defaults()
    fields = [{"name": name, "value": values[name], **_kind(name, first)} for name in names]
    return {"version": VERSION, "fields": fields, "presets": first.presets()}


def restore(names: Sequence[str], first: ModelSettings) -> str:
    """A function of what is stored and the values shown; gives what to store, the values and the preset."""
    call = f"({_RESTORE})({json.dumps(built(names, first))}, ...now)"
    return f"(...now) => {{ {_RESTORED} = 'restored'; return {call}; }}"


def remember(names: Sequence[str]) -> str:
    """A function of the values shown, which gives what to store: nothing before all of them are restored."""
    values = f"Object.fromEntries({list(names)}.map((name, i) => [name, values[i]]))"
    return f"(...values) => {_RESTORED} ? [{{version: {VERSION}, values: {values}}}] : []"


def remember_texts(names: Sequence[str]) -> str:
    """As `remember`, of what is stored and the values shown, for who may have left a text as it was."""
    places = {name: names.index(name) for name in TEXTS}
    changed = "([name, i]) => (values[i] ?? '') !== (stored?.values?.[name] ?? '')"
    any_changed = f"Object.entries({json.dumps(places)}).some({changed})"
    return f"(stored, ...values) => {any_changed} ? ({remember(names)})(...values) : []"


def _kind(name: str, first: ModelSettings) -> dict[str, Any]:
    if name in SLIDERS:
        return {"kind": "slider", **asdict(first.slider(name)), "whole": SLIDERS[name].whole}
    if name == SEED.name:
        return {"kind": "number", **asdict(SEED), "whole": True}
    if name == "overflow":
        return {"kind": "choice", "choices": get_args(Overflow)}
    return {"kind": "text", "longest": LONGEST_TEXT, "lines": MOST_STOPS if name == "stop" else LONGEST_TEXT}
