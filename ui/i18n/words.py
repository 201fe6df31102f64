"""What the page says, in the visitor's language. The words are in texts/en.json, de.json and zh.json.

`words` is for lines that are made on the server; it never imports gradio, as the terminal chat speaks through
it too. What a component shows from the start is translated by Gradio in the browser: see ui/i18n/gradio.py.
Both come to the same language, since both follow the browser's first one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import gradio as gr
    from starlette.requests import HTTPConnection


Language = Literal["en", "de", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_CHINESE = ("zh-cn", "zh-tw")  # Gradio's own two; for any other kind it falls back to English
_GERMAN_MARKS = str.maketrans(",.", ".,")


@cache
def translations(language: Language) -> Mapping[str, str]:
    """All texts of one language by their keys."""
    file = Path(__file__).with_name("locales") / f"{language}.json"
    loaded: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


@dataclass(frozen=True)
class Translator:
    """The texts of one language: `t("status.waiting", ahead=2)`. An unknown key is a KeyError."""

    language: Language

    def __call__(self, key: str, **values: object) -> str:
        """The text with its gaps filled."""
        return translations(self.language)[key].format(**values)

    def number(self, value: float, digits: int = 0) -> str:
        """A number as it is written in this language: 2,048.5 or 2.048,5."""
        text = f"{value:,.{digits}f}"
        return text.translate(_GERMAN_MARKS) if self.language == "de" else text


ENGLISH = Translator("en")


def translator(request: gr.Request | HTTPConnection | None) -> Translator:
    """The texts for who asks, by the first language of Accept-Language; English for any other."""
    return Translator(language_of(request.headers.get("accept-language") or "")) if request else ENGLISH


def language_of(accept_language: str) -> Language:
    """The language that Gradio's page picks for a browser with this header."""
    first = accept_language.split(",", maxsplit=1)[0].split(";", maxsplit=1)[0].strip().lower()
    if first in _CHINESE:
        return "zh"
    return "de" if first.split("-")[0] == "de" else "en"
