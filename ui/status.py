"""What is happening, in words: the facts above the chat and the line below it. Plain HTML, all escaped."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from engine.backend import ModelInfo
from engine.errors import EngineError, EngineStopped, QueueFull
from engine.request import Dropped, RequestStats
from ui.limits import TooMany
from ui.store import StoreError, Unknown
from ui.streaming import Progress
from ui.texts import ENGLISH, Words
from ui.thoughts import split
from ui.tree import Made

Failure = EngineError | TooMany | Unknown | StoreError
"""Why a person did not get what they asked for."""

BRING_YOUR_OWN = "python app.py PATH/TO/MODEL.gguf"


def size_text(size: int) -> str:
    """Bytes as a person says them: 1.4 GB, 95 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def parameters_text(count: int) -> str:
    """A parameter count as models are named: 3.8 B, 135 M."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{max(1, round(count / 1e6))} M"


def short_name(info: ModelInfo) -> str:
    """The file's name without its type, which people know; what the file calls itself is often a run's id.

    And that of the adapter on it.
    """
    stem = Path(info.path).stem
    for joint in "-._":
        stem = stem.removesuffix(f"{joint}{info.quantization}")
    return (stem or info.name) + (f" + {Path(info.adapter).stem}" if info.adapter else "")


def model_name(info: ModelInfo) -> str:
    """The page's head."""
    return f"<h1>{escape(short_name(info))}</h1>"


def facts_text(info: ModelInfo, say: Words = ENGLISH) -> str:
    """What the model is made of, in one line."""
    parameters = say("page.parameters", count=parameters_text(info.parameters))
    context = say("page.context", tokens=say.number(info.context))
    return " · ".join(fact for fact in (info.quantization, parameters, size_text(info.size), context) if fact)


def model_facts(info: ModelInfo, embedded: bool = False, say: Words = ENGLISH) -> str:
    """The line below the head, and for the embedded model how to bring another."""
    hint = f"<p>{escape(say('page.bring_your_own'))} <code>{BRING_YOUR_OWN}</code></p>" if embedded else ""
    return f"<p>{escape(facts_text(info, say))}</p>{hint}"


def line(text: str, kind: str = "") -> str:
    """One line under the conversation; `kind` is busy, note, error or nothing."""
    return f"<div class='status {kind}' role='status' aria-live='polite'>{escape(text)}</div>"


def status(progress: Progress, say: Words = ENGLISH) -> str:
    """The line for an answer under way or at its end."""
    if progress.error is not None:
        return error_line(progress.error, partial=bool(progress.text), say=say)
    if progress.reason is not None:
        plain = progress.reason == "stop" and progress.dropped is None
        return line(outcome_text(progress, say), "" if plain else "note")
    return line(_under_way(progress, say), "busy")


def _under_way(progress: Progress, say: Words) -> str:
    if progress.first_text is None:
        return _before_the_first_word(progress, say)
    about = f" · {say('status.about', rate=say.number(progress.rate))}" if progress.rate else ""
    return say("status.thinking" if split(progress.text).thinking else "status.writing") + about


def _before_the_first_word(progress: Progress, say: Words) -> str:
    if progress.position > 1:
        return say("status.waiting", ahead=progress.position - 1)
    if progress.position == 1:
        return say("status.next")
    if progress.prompt is not None and progress.prompt.total > 0:
        return say("status.reading", percent=100 * progress.prompt.done // progress.prompt.total)
    return say("status.starting")


def made_line(made: Made | None, say: Words = ENGLISH) -> str:
    """The line for an answer of earlier, from how it was made."""
    if made is None:
        return line("")
    if made.reason in ("error", "interrupted"):
        return line(say("status.interrupted"), "note")
    return status(_ended(made), say)


def _ended(made: Made) -> Progress:
    """An answer of earlier as if it had ended just now."""
    seconds = (0.0, 0.0, made.decode_seconds or 0.0)
    stats = RequestStats(made.prompt_tokens, made.cached_tokens, made.generated_tokens, *seconds)
    dropped = Dropped(made.dropped_messages, 0) if made.dropped_messages else None
    reason: Any = made.reason
    return Progress(
        reason=reason, stats=stats, dropped=dropped, started=0.0, first_text=made.first_text_seconds
    )


def outcome_text(progress: Progress, say: Words = ENGLISH) -> str:
    """How a finished answer went: why it ended, when that is worth a word, and its numbers."""
    why = {
        "length": say("status.length"),
        "time": say("status.time"),
        "cancelled": say("status.cancelled"),
    }
    parts = [why[progress.reason]] if progress.reason in why else []
    if progress.dropped is not None:
        parts.append(_dropped_text(progress.dropped, say))
    if progress.stats is not None:
        parts.append(say("status.tokens", count=say.number(progress.stats.generated_tokens)))
        parts.append(say("status.rate", rate=say.number(progress.rate, 1)))
    if progress.first_text_seconds is not None:
        parts.append(say("status.first_word", seconds=say.number(progress.first_text_seconds, 2)))
    return " · ".join(parts)


def _dropped_text(dropped: Dropped, say: Words) -> str:
    if dropped.messages == 1:
        return say("status.dropped_one")
    return say("status.dropped_many", count=dropped.messages)


def explain(error: Failure, say: Words = ENGLISH) -> str:
    """An error for someone who only wanted an answer: what happened, and what to do."""
    if isinstance(error, TooMany):
        return error.text(say)
    if isinstance(error, Unknown):
        return say("status.gone")
    if isinstance(error, StoreError):
        return say("status.not_kept", error=error)
    if isinstance(error, QueueFull):
        return say("status.queue_full")
    if isinstance(error, EngineStopped):
        return say("status.broke_off", error=error)
    return say("status.failed", error=error)


def error_line(error: Failure, partial: bool = False, say: Words = ENGLISH) -> str:
    """The line for an answer that failed."""
    kept = f" {say('status.kept')}" if partial else ""
    return line(explain(error, say) + kept, "error")
