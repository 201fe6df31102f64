"""A model that reasons aloud begins with its thoughts, between tags; a reader wants them folded."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Thoughts come first or not at all: whoever explains the tag further down is left alone. Where the template
# has opened them in the prompt already (Qwen, DeepSeek), the answer holds the closing tag alone.
_OPEN = re.compile(r"\s*(?:<(?P<tag>think|thinking|thought|reasoning)>|(?P<upper>\[THINK\]))")
_CODE_OR_TAG = re.compile(r"```.*?```|`[^`\n]*`|(?P<open><think>)|(?P<close></think>)\s*", re.DOTALL)


@dataclass(frozen=True)
class Spoken:
    """An answer in two parts. `thoughts` of None: it has none; `thinking`: they have not ended."""

    thoughts: str | None
    answer: str
    thinking: bool = False


def split(text: str) -> Spoken:
    """Tell an answer's thoughts from the rest."""
    opened = _OPEN.match(text)
    if opened is None:
        return _closed_alone(text)
    close = "[/THINK]" if opened["upper"] else f"</{opened['tag']}>"
    thoughts, ended, answer = text[opened.end() :].partition(close)
    return Spoken(thoughts.strip(), answer.lstrip(), thinking=not ended)


def _closed_alone(text: str) -> Spoken:
    """Thoughts are what stands before a closing tag that nothing opened, unless that is code."""
    if "</think>" in text:  # this is asked a dozen times a second
        for found in _CODE_OR_TAG.finditer(text):
            if found["open"]:
                break
            if found["close"]:
                return Spoken(text[: found.start()].strip(), text[found.end() :])
    return Spoken(None, text)
