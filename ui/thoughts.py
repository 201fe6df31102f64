"""A model that reasons aloud begins with its thoughts, between tags; a reader wants them folded."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Thoughts come first or not at all: whoever explains the tag further down is left alone. Where the template
# has opened them in the prompt already (Qwen, DeepSeek), the answer holds the closing tag alone.
_OPEN = re.compile(r"\s*(?:<(?P<tag>think|thinking|thought|reasoning)>|(?P<upper>\[THINK\]))")
_CLOSE_ALONE = re.compile(r"</think>\s*")


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
        if (closed := _CLOSE_ALONE.search(text)) is None:
            return Spoken(None, text)
        return Spoken(text[: closed.start()].strip(), text[closed.end() :])
    close = "[/THINK]" if opened["upper"] else f"</{opened['tag']}>"
    thoughts, ended, answer = text[opened.end() :].partition(close)
    return Spoken(thoughts.strip(), answer.lstrip(), thinking=not ended)
