"""The page's texts in the visitor's language, from locales/en.json, de.json and zh.json.

Lines that the server writes are translated by a `Translator`. A component is built once for all visitors, so
its texts are translated by Gradio in the browser: see `text`. Both follow the browser's first language.
Gradio is imported only by the latter, as the terminal chat uses this module too.
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
    from gradio.i18n import I18nData
    from starlette.requests import HTTPConnection

# Help texts of options that app.py and scripts/chat.py share.
MODEL_HELP = (
    "A .gguf file, its folder, or owner/name/file.gguf on the Hub, and ::ADAPTER.gguf after it for a LoRA "
    "adapter. Default: the embedded model."
)
TEMPLATE_HELP = (
    "A Jinja file, or a name such as chatml, llama3 or alpaca, in place of the model's own chat template."
)
CONTEXT_HELP = "Tokens that one conversation may hold."
THREADS_HELP = "CPU threads. Default: the cores that are really yours."
KV_TYPE_HELP = "How a conversation is kept in memory: q8_0 takes half, q4_0 a quarter and loses precision."
SPECULATION_HELP = "Guess what repeats the conversation, and check it in one go, where measured to be faster."


Language = Literal["en", "de", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_CHINESE = ("zh-cn", "zh-tw")  # the two that Gradio has; for others it falls back to English
_GERMAN_SEPARATORS = str.maketrans(",.", ".,")


@cache
def translations(language: Language) -> Mapping[str, str]:
    """Return the texts of a language by their keys."""
    file = Path(__file__).with_name("locales") / f"{language}.json"
    loaded: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


@dataclass(frozen=True)
class Translator:
    """The texts of one language: `t("status.waiting", ahead=2)`. Raises KeyError for an unknown key."""

    language: Language

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with its placeholders filled in."""
        return translations(self.language)[key].format(**values)

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number in this language's notation: 2,048.5 or 2.048,5."""
        text = f"{value:,.{digits}f}"
        return text.translate(_GERMAN_SEPARATORS) if self.language == "de" else text


ENGLISH = Translator("en")


def translator(request: gr.Request | HTTPConnection | None) -> Translator:
    """Return the texts for a request's Accept-Language; English without a request."""
    return Translator(language_of(request.headers.get("accept-language") or "")) if request else ENGLISH


def language_of(accept_language: str) -> Language:
    """Return the language that Gradio's page picks for a browser with this Accept-Language header."""
    first = accept_language.split(",", maxsplit=1)[0].split(";", maxsplit=1)[0].strip().lower()
    if first in _CHINESE:
        return "zh"
    return "de" if first.split("-")[0] == "de" else "en"


@cache
def gradio_i18n() -> gr.I18n:
    """Return the texts for Gradio, which translates those of components in the browser."""
    import gradio as gr

    return gr.I18n(**{language: dict(translations(language)) for language in LANGUAGES})


def text(key: str) -> I18nData:
    """Return a component's text, for Gradio to translate. Raises KeyError for an unknown key.

    Gradio translates only strings that a component gets as label, info, placeholder, value, submit_btn or
    the name of a choice, and one text in each. It does not translate a Chatbot's examples and the page's
    title: an event (`page.load`) sends them in the language of its request.
    """
    if key not in translations("en"):
        raise KeyError(key)
    return gradio_i18n()(key)
