"""The model's facts, the status line, error messages and the context meter, as text and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from common.errors import UserError
from common.text import parameters_text, size_text
from engine.errors import EngineStopped, QueueFull, Unforeseen
from engine.types import MessagesDropped, ModelInfo, RequestStats
from ui.auth.limits import RateLimitExceeded
from ui.conversations.model import EDITED, GenerationInfo, Node
from ui.conversations.store import NotFound, StoreError
from ui.generation.streaming import Progress
from ui.i18n.words import ENGLISH, Translator
from ui.models.files import short_name
from ui.render.html import html, render
from ui.render.messages import split

Failure = UserError | RateLimitExceeded | NotFound | StoreError
"""The errors that a page explains to its user."""


BRING_YOUR_OWN = "python app.py PATH/TO/MODEL.gguf"


def model_name(info: ModelInfo) -> Markup:
    """Render the page's heading."""
    return html("<h1>{{ name }}</h1>", name=short_name(info))


def facts_text(info: ModelInfo, t: Translator = ENGLISH) -> str:
    """Return the model's quantization, parameters, size and context in one line."""
    parameters = t("page.parameters", count=parameters_text(info.parameters))
    context = t("page.context", tokens=t.number(info.context))
    return " · ".join(fact for fact in (info.quantization, parameters, size_text(info.size), context) if fact)


def model_facts(info: ModelInfo, embedded: bool = False, t: Translator = ENGLISH) -> Markup:
    """Render the line below the heading; for the embedded model, add how to serve another."""
    facts = html("<p>{{ facts }}</p>", facts=facts_text(info, t))
    if not embedded:
        return facts
    hint = t("page.bring_your_own")
    return facts + html("<p>{{ hint }} <code>{{ command }}</code></p>", hint=hint, command=BRING_YOUR_OWN)


@dataclass(frozen=True)
class Status:
    """A line below the messages; its `kind` is "busy", "note", "error" or ""."""

    text: str
    kind: str = ""


def status(progress: Progress, t: Translator = ENGLISH) -> Status:
    """Return the status line of an answer, under way or finished."""
    if progress.error is not None:
        return error_status(progress.error, partial=bool(progress.text), t=t)
    if progress.reason is not None:
        plain = progress.reason == "stop" and progress.dropped is None
        return Status(outcome_text(progress, t), "" if plain else "note")
    return Status(_under_way(progress, t), "busy")


def line(text: str, css_class: str = "") -> Markup:
    """Render a line of text as HTML; `css_class` is a Status's kind."""
    return html(
        "<div class='status {{ css_class }}' role='status' aria-live='polite'>{{ text }}</div>",
        text=text,
        css_class=css_class,
    )


def status_line(progress: Progress, t: Translator = ENGLISH) -> Markup:
    """Render the status of an answer as HTML."""
    found = status(progress, t)
    return line(found.text, found.kind)


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


def ended_text(made: GenerationInfo | None, t: Translator = ENGLISH) -> str:
    """Return why a stored answer ended, unless it was complete, and its statistics."""
    if made is None:
        return ""
    if made.reason in ("error", "interrupted"):
        return t("status.interrupted")
    if made == EDITED:
        return t("status.edited")
    return outcome_text(_ended(made), t)


def _ended(made: GenerationInfo) -> Progress:
    """Return the Progress that a stored answer had at its end."""
    seconds = (0.0, 0.0, made.decode_seconds or 0.0)
    stats = RequestStats(made.prompt_tokens, made.cached_tokens, made.generated_tokens, *seconds)
    dropped = MessagesDropped(made.dropped_messages, 0) if made.dropped_messages else None
    reason: Any = made.reason
    limit = made.sampling.get("max_tokens")  # of an imported file perhaps, which may hold anything
    return Progress(
        reason=reason,
        stats=stats,
        dropped=dropped,
        started=0.0,
        first_text=made.first_text_seconds,
        max_tokens=limit if isinstance(limit, int) else None,
    )


def outcome_text(progress: Progress, t: Translator = ENGLISH) -> str:
    """Return why an answer ended, unless it was complete, and its statistics."""
    why = {
        "length": t("status.full" if progress.is_full else "status.length"),
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


_KINDS = (
    (StoreError, "status.not_kept"),
    (EngineStopped, "status.broke_off"),
    (Unforeseen, "status.unforeseen"),
)


def explain(error: Failure, t: Translator = ENGLISH) -> str:
    """Explain an error to a user: what happened, and what to do."""
    if isinstance(error, RateLimitExceeded):
        return error.text(t)
    if isinstance(error, NotFound):
        return t("status.gone")
    if isinstance(error, QueueFull):
        return t("status.queue_full")
    return t(next((key for kind, key in _KINDS if isinstance(error, kind)), "status.failed"), error=error)


def not_saved_status(error: StoreError, t: Translator) -> Status:
    """Return the status line of an answer that is shown and could not be saved yet."""
    return Status(f"{explain(error, t)} {t('status.saved_later')}", "error")


def error_status(error: Failure, partial: bool = False, t: Translator = ENGLISH) -> Status:
    """Return the status line of a failed answer; `partial`: some of its text was kept."""
    kept = f" {t('status.kept')}" if partial else ""
    return Status(explain(error, t) + kept, "error")


def error_line(error: Failure, t: Translator = ENGLISH) -> Markup:
    """Render an error as HTML."""
    return line(explain(error, t), "error")


_FULL = 0.85  # the meter warns from this share on


def meter(used: int, context: int, dropped: int = 0, t: Translator = ENGLISH) -> Markup:
    """Render a gauge of `used` tokens out of `context`, and how many messages were left out."""
    share = min(1.0, used / context)
    return render(
        "meter",
        full=share >= _FULL or dropped,
        title=f"{t('meter.title')} {_why(dropped, t)}".strip(),
        label=t("meter.label"),
        words=t("meter.tokens", used=t.number(used), context=t.number(context)),
        why=t("meter.left_out", count=dropped) if dropped else "",
        context=context,
        used=min(used, context),
        width=f"{100 * share:.1f}",
    )


def _why(dropped: int, t: Translator) -> str:
    if not dropped:
        return ""
    return t("meter.why_one") if dropped == 1 else t("meter.why_many", count=dropped)


def meter_of(path: Sequence[Node], context: int, t: Translator = ENGLISH) -> Markup:
    """Render the meter of a conversation, from its last answer's counts."""
    made = next((node.made for node in reversed(path) if node.made is not None), None)
    if made is None:
        return meter(0, context, 0, t)
    return meter(made.prompt_tokens + made.generated_tokens, context, made.dropped_messages, t)


def meter_while(progress: Progress, context: int, t: Translator = ENGLISH) -> Markup | None:
    """Render the meter while an answer grows, or return None before the prompt's length is known."""
    if progress.prompt is None:
        return None
    dropped = progress.dropped.messages if progress.dropped else 0
    return meter(progress.prompt.total + progress.pieces, context, dropped, t)
