"""The page's texts: complete in every language, all of them used, none missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.errors import QueueFull
from engine.types import TextDelta
from tests.ui.fake_backend import INFO, finished
from ui.generation.streaming import Progress
from ui.i18n.words import ENGLISH, LANGUAGES, Translator, language_of, text, translations, translator
from ui.render.status import explain, facts_text, outcome_text

UI = Path(__file__).resolve().parents[3] / "ui"
GROUPS = "|".join(sorted({key.partition(".")[0] for key in translations("en")}))
OPENAIS = {"chat.completion", "chat.completion.chunk"}  # object types in ui/openai/schemas.py
FILES = {
    "access.css",
    "chat.html",
    "compare.js",
    "history.sqlite",
    "presets.html",
    "presets.js",
    "probabilities.js",
}
KEY = re.compile(rf"({GROUPS})(\.[a-z0-9_]+)+")


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


def literals() -> tuple[set[str], set[str]]:
    """Return the literals in ui/ that look like keys, and patterns of the f-strings that do."""
    whole: set[str] = set()
    patterns: set[str] = set()
    for path in UI.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else r"\w+" for p in node.values)
                pattern = "".join(re.escape(part) if part != r"\w+" else part for part in map(str, parts))
                patterns.add(pattern)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and KEY.fullmatch(node.value):
                whole.add(node.value)
    return whole, {p for p in patterns if re.match(rf"({GROUPS})\\\.", p)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_texts_with_the_same_gaps(language: Any) -> None:
    english, other = translations("en"), translations(language)
    assert list(other) == list(english)
    for key, template in other.items():
        assert template.strip(), key
        assert fields(template) == fields(english[key]), key


def test_every_text_is_used_and_every_key_exists() -> None:
    whole, patterns = literals()
    assert whole - OPENAIS - FILES <= set(translations("en"))
    unused = {
        key for key in set(translations("en")) - whole if not any(re.fullmatch(p, key) for p in patterns)
    }
    assert unused == set()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("zh-CN,zh;q=0.9", "zh"),
        ("zh-Hans", "en"),  # as Gradio decides in the browser: both must agree
        ("fr-FR,de;q=0.9", "en"),
        (";;,q=zh", "en"),
    ],
)
def test_the_first_language_of_the_browser_decides(header: str, language: str) -> None:
    assert language_of(header) == language
    request = SimpleNamespace(headers={"accept-language": header})
    assert translator(cast(Any, request)).language == language


def test_an_unknown_key_is_an_error_and_never_shown() -> None:
    for speak in (ENGLISH, text):
        with pytest.raises(KeyError):
            speak("chat.nonsense")


def test_lines_speak_german_and_chinese_numbers_included() -> None:
    progress = Progress()
    progress.update(TextDelta("a"))
    progress.update(finished("length", 1234))
    assert "1.234 Token · 2.468,0 Token/s" in outcome_text(progress, Translator("de"))
    assert "已达长度上限" in outcome_text(progress, Translator("zh"))
    assert "2.048 Token Kontext" in facts_text(INFO, Translator("de"))
    assert "请稍等" in explain(QueueFull("x"), Translator("zh"))
