"""How the report says what it knows: numbers with their units, where a model comes from, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.report.facts import Facts

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#!~$&])")


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def number(value: float | None, form: str) -> str:
    """A number in a form such as "%.3f", or a dash where it was not measured."""
    return "–" if value is None else form % value


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def share(value: tuple[float, float, float] | None) -> str:
    """A share with its interval."""
    return "–" if value is None else f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def tried(trial: Mapping[str, Any]) -> str:
    """What a type keeps that `--quant auto` tried, with its interval."""
    kept = (trial["survival"], trial["low"], trial["high"])
    return "–" if None in kept else share(kept)


def line(text: str) -> str:
    """Any text as one line of Markdown that says just that: prompts and names are strangers' words."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def cell(text: str, length: int = 120) -> str:
    """The beginning of a text, for a table of Markdown."""
    words = " ".join(text.split())
    return line(words if len(words) <= length else words[:length].rstrip() + " …")


def origin(facts: Facts) -> str:
    """What the model is, in a sentence."""
    base = facts.base["source"]
    if not facts.adapters:
        return f"{base} as GGUF."
    merged = ", ".join(adapter["source"] for adapter in facts.adapters)
    return f"{base} with {merged} merged into it, as GGUF."


def verdict(facts: Facts) -> str:
    """What the checks add up to."""
    return {
        "pass": "All checks passed.",
        "warn": "The checks passed with a warning: read it before you choose a file.",
        "fail": "A check failed: do not use the files that it names.",
        "skipped": "Nothing was checked.",
    }[facts.status]


def made_of(facts: Facts) -> Iterator[tuple[str, str]]:
    """What went in, line by line."""
    yield "base model", _input(facts.base)
    for adapter in facts.adapters:
        weight = "" if adapter["weight"] == 1 else f", weight {adapter['weight']:g}"
        yield "adapter", f"{_input(adapter)}, {adapter['kind']} of rank {adapter['rank']}{weight}"
    if facts.importance:
        source = facts.importance.get("calibrate") or facts.importance["imatrix"]
        yield "importance matrix", f"{source}, sha256 {facts.importance['sha256']}"
    for note in facts.model.get("notes", ()):
        yield "note", note
    yield "versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items())


def _input(told: Mapping[str, Any]) -> str:
    if told.get("revision"):
        return f"{told['source']} at {told['revision']}"
    return f"{told['source']} ({told['model']})" if told.get("model") else str(told["source"])
