"""How full the model's context is, and what no longer fits. Plain HTML, all escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ui.streaming import Progress
from ui.texts import ENGLISH, Words
from ui.tree import Node

_FULL = 0.85  # from here on the meter warns


def meter(used: int, context: int, dropped: int = 0, say: Words = ENGLISH) -> str:
    """A bar and its words: `used` of `context` tokens, and how many messages were left out."""
    share = min(1.0, used / context)
    words = say("meter.tokens", used=say.number(used), context=say.number(context))
    why = f"<span class='why'>{escape(say('meter.left_out', count=dropped))}</span>" if dropped else ""
    title = escape(f"{say('meter.title')} {_why(dropped, say)}".strip(), quote=True)
    full = " full" if share >= _FULL or dropped else ""
    gauge = (
        f"<span class='gauge' role='meter' aria-label='{escape(say('meter.label'), quote=True)}'"
        f" aria-valuemin='0' aria-valuemax='{context}' aria-valuenow='{min(used, context)}'"
        f" aria-valuetext='{escape(words, quote=True)}'><i style='width:{100 * share:.1f}%'></i></span>"
    )
    return f"<div class='meter{full}' title='{title}'>{gauge}<span>{escape(words)}</span>{why}</div>"


def _why(dropped: int, say: Words) -> str:
    if not dropped:
        return ""
    return say("meter.why_one") if dropped == 1 else say("meter.why_many", count=dropped)


def meter_of(path: Sequence[Node], context: int, say: Words = ENGLISH) -> str:
    """The meter for a conversation: its last answer knows."""
    made = next((node.made for node in reversed(path) if node.made is not None), None)
    if made is None:
        return meter(0, context, 0, say)
    return meter(made.prompt_tokens + made.generated_tokens, context, made.dropped_messages, say)


def meter_while(progress: Progress, context: int, say: Words = ENGLISH) -> str | None:
    """The meter while an answer grows; None as long as nothing is known."""
    if progress.prompt is None:
        return None
    dropped = progress.dropped.messages if progress.dropped else 0
    return meter(progress.prompt.total + progress.pieces, context, dropped, say)
