"""Messages as the page's script reads them (ui/static/message_list.js): plain data, no HTML.

The texts are a model's and a user's, as they are: the browser turns Markdown into safe elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.config import SamplingParams
from ui.conversations.model import EDITED, GenerationInfo, Node, Tree
from ui.i18n.words import Translator
from ui.render.messages import split
from ui.render.status import ended_text

Item = dict[str, Any]
_DEFAULTS = asdict(SamplingParams())
_SETTINGS = ("temperature", "max_tokens", "repeat_penalty", "top_k", "top_p", "min_p", "seed")


def message_items(
    path: Sequence[Node], tree: Tree, t: Translator, *, asking: int | None = None
) -> list[Item]:
    """Return the items of the messages of a path; `asking` is the rated one that may get a note."""
    return [
        message_item(node, t) | {"versions": tree.versions(node.id), "ask_note": node.id == asking}
        for node in path
    ]


def message_item(node: Node, t: Translator, *, writing: bool = False) -> Item:
    """Return a message's item, without its versions; `writing`: more of it comes."""
    if node.role == "user":
        return {"id": node.id, "role": "user", "text": node.text, "edited": node.text, "thoughts": None}
    spoken = split(node.text)
    thoughts = spoken.thoughts
    item: Item = {
        "id": node.id,
        "role": "assistant",
        "text": spoken.answer,
        "thoughts": thoughts,
        "thinking": spoken.thinking and writing,
        "thought_words": t("chat.words", count=t.number(len(thoughts.split())))
        if thoughts is not None
        else "",
    }
    if writing:
        return item
    return item | {
        "edited": node.text,
        "opinion": node.opinion,
        "note": node.note,
        "cut": node.made is not None and (node.made.reason != "stop" or node.made == EDITED),
        "stats": ended_text(node.made, t),
        "details": _details(node.made, t) if node.made and node.made != EDITED else [],
    }


def _details(made: GenerationInfo, t: Translator) -> list[tuple[str, str]]:
    """Return names and values of what an answer was made with."""
    count = t.number(made.prompt_tokens)
    rows = [
        (t("made.model"), " · ".join(filter(None, (made.model, made.quantization, made.model_hash[:12])))),
        (t("made.prompt"), t("made.tokens", count=count, cached=t.number(made.cached_tokens))),
        (t("made.system_prompt"), made.system_prompt),
        (t("made.settings"), ", ".join(f"{name} {value}" for name, value in _chosen(made))),
    ]
    return [(name, value) for name, value in rows if value]


def _chosen(made: GenerationInfo) -> list[tuple[str, object]]:
    """Return the usual settings, and of the others those that were set."""
    known = [(name, made.sampling[name]) for name in _SETTINGS if name in made.sampling]
    others = [
        (name, value)
        for name, value in made.sampling.items()
        if name not in _SETTINGS and value and value != _DEFAULTS.get(name)
    ]
    return [(name, value) for name, value in known + others if value is not None]
