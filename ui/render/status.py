"""What is happening, in words: the facts above the chat and the line below it. Plain HTML, all escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from common.errors import UserError
from common.text import parameters_text, size_text
from engine.errors import EngineStopped, QueueFull
from engine.types import MessagesDropped, ModelInfo, RequestStats
from ui.auth.limits import RateLimitExceeded
from ui.conversations.model import GenerationInfo, Node
from ui.conversations.store import NotFound, StoreError
from ui.generation.streaming import Progress
from ui.i18n.words import ENGLISH, Translator
from ui.models.files import short_name
from ui.render.messages import split

Failure = UserError | RateLimitExceeded | NotFound | StoreError
"""Why a person did not get what they asked for."""


BRING_YOUR_OWN = "python app.py PATH/TO/MODEL.gguf"


def model_name(info: ModelInfo) -> str:
    """The page's head."""
    return f"<h1>{escape(short_name(info))}</h1>"


def facts_text(info: ModelInfo, t: Translator = ENGLISH) -> str:
    """What the model is made of, in one line."""
    parameters = t("page.parameters", count=parameters_text(info.parameters))
    context = t("page.context", tokens=t.number(info.context))
    return " · ".join(fact for fact in (info.quantization, parameters, size_text(info.size), context) if fact)


def model_facts(info: ModelInfo, embedded: bool = False, t: Translator = ENGLISH) -> str:
    """The line below the head, and for the embedded model how to bring another."""
    hint = f"<p>{escape(t('page.bring_your_own'))} <code>{BRING_YOUR_OWN}</code></p>" if embedded else ""
    return f"<p>{escape(facts_text(info, t))}</p>{hint}"


def line(text: str, kind: str = "") -> str:
    """One line under the conversation; `kind` is busy, note, error or nothing."""
    return f"<div class='status {kind}' role='status' aria-live='polite'>{escape(text)}</div>"


def status(progress: Progress, t: Translator = ENGLISH) -> str:
    """The line for an answer under way or at its end."""
    if progress.error is not None:
        return error_line(progress.error, partial=bool(progress.text), t=t)
    if progress.reason is not None:
        plain = progress.reason == "stop" and progress.dropped is None
        return line(outcome_text(progress, t), "" if plain else "note")
    return line(_under_way(progress, t), "busy")


def _under_way(progress: Progress, t: Translator) -> str:
    if progress.first_text is None:
        return _before_the_first_word(progress, t)
    about = f" · {t('status.about', rate=t.number(progress.rate))}" if progress.rate else ""
    return t("status.thinking" if split(progress.text).thinking else "status.writing") + about


def _before_the_first_word(progress: Progress, t: Translator) -> str:
    if progress.position > 1:
        return t("status.waiting", ahead=progress.position - 1)
    if progress.position == 1:
        return t("status.next")
    if progress.prompt is not None and progress.prompt.total > 0:
        return t("status.reading", percent=100 * progress.prompt.done // progress.prompt.total)
    return t("status.starting")


def made_line(made: GenerationInfo | None, t: Translator = ENGLISH) -> str:
    """The line for an answer of earlier, from how it was made."""
    if made is None:
        return line("")
    if made.reason in ("error", "interrupted"):
        return line(t("status.interrupted"), "note")
    return status(_ended(made), t)


def _ended(made: GenerationInfo) -> Progress:
    """An answer of earlier as if it had ended just now."""
    seconds = (0.0, 0.0, made.decode_seconds or 0.0)
    stats = RequestStats(made.prompt_tokens, made.cached_tokens, made.generated_tokens, *seconds)
    dropped = MessagesDropped(made.dropped_messages, 0) if made.dropped_messages else None
    reason: Any = made.reason
    return Progress(
        reason=reason, stats=stats, dropped=dropped, started=0.0, first_text=made.first_text_seconds
    )


def outcome_text(progress: Progress, t: Translator = ENGLISH) -> str:
    """How a finished answer went: why it ended, when that is worth a word, and its numbers."""
    why = {
        "length": t("status.length"),
        "time": t("status.time"),
        "cancelled": t("status.cancelled"),
    }
    parts = [why[progress.reason]] if progress.reason in why else []
    if progress.dropped is not None:
        parts.append(_dropped_text(progress.dropped, t))
    if progress.stats is not None:
        parts.append(t("status.tokens", count=t.number(progress.stats.generated_tokens)))
        parts.append(t("status.rate", rate=t.number(progress.rate, 1)))
    if progress.first_text_seconds is not None:
        parts.append(t("status.first_word", seconds=t.number(progress.first_text_seconds, 2)))
    return " · ".join(parts)


def _dropped_text(dropped: MessagesDropped, t: Translator) -> str:
    if dropped.messages == 1:
        return t("status.dropped_one")
    return t("status.dropped_many", count=dropped.messages)


def explain(error: Failure, t: Translator = ENGLISH) -> str:
    """An error for someone who only wanted an answer: what happened, and what to do."""
    if isinstance(error, RateLimitExceeded):
        return error.text(t)
    if isinstance(error, NotFound):
        return t("status.gone")
    if isinstance(error, StoreError):
        return t("status.not_kept", error=error)
    if isinstance(error, QueueFull):
        return t("status.queue_full")
    if isinstance(error, EngineStopped):
        return t("status.broke_off", error=error)
    return t("status.failed", error=error)


def error_line(error: Failure, partial: bool = False, t: Translator = ENGLISH) -> str:
    """The line for an answer that failed."""
    kept = f" {t('status.kept')}" if partial else ""
    return line(explain(error, t) + kept, "error")


_FULL = 0.85  # from here on the meter warns


def meter(used: int, context: int, dropped: int = 0, t: Translator = ENGLISH) -> str:
    """A bar and its words: `used` of `context` tokens, and how many messages were left out."""
    share = min(1.0, used / context)
    words = t("meter.tokens", used=t.number(used), context=t.number(context))
    why = f"<span class='why'>{escape(t('meter.left_out', count=dropped))}</span>" if dropped else ""
    title = escape(f"{t('meter.title')} {_why(dropped, t)}".strip(), quote=True)
    full = " full" if share >= _FULL or dropped else ""
    gauge = (
        f"<span class='gauge' role='meter' aria-label='{escape(t('meter.label'), quote=True)}'"
        f" aria-valuemin='0' aria-valuemax='{context}' aria-valuenow='{min(used, context)}'"
        f" aria-valuetext='{escape(words, quote=True)}'><i style='width:{100 * share:.1f}%'></i></span>"
    )
    return f"<div class='meter{full}' title='{title}'>{gauge}<span>{escape(words)}</span>{why}</div>"


def _why(dropped: int, t: Translator) -> str:
    if not dropped:
        return ""
    return t("meter.why_one") if dropped == 1 else t("meter.why_many", count=dropped)


def meter_of(path: Sequence[Node], context: int, t: Translator = ENGLISH) -> str:
    """The meter for a conversation: its last answer knows."""
    made = next((node.made for node in reversed(path) if node.made is not None), None)
    if made is None:
        return meter(0, context, 0, t)
    return meter(made.prompt_tokens + made.generated_tokens, context, made.dropped_messages, t)


def meter_while(progress: Progress, context: int, t: Translator = ENGLISH) -> str | None:
    """The meter while an answer grows; None as long as nothing is known."""
    if progress.prompt is None:
        return None
    dropped = progress.dropped.messages if progress.dropped else 0
    return meter(progress.prompt.total + progress.pieces, context, dropped, t)
