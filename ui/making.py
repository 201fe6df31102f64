"""How an answer was made, as it is kept with it; an answer that was continued was made in one go."""

from __future__ import annotations

from dataclasses import asdict, replace

from engine.backend import ModelInfo
from engine.request import RequestStats
from engine.settings import SamplingSettings
from ui.status import short_name
from ui.streaming import Progress
from ui.tree import Made, Reason

_SELDOM = ("stop", "grammar", "json_schema", "ignore_end")  # of no interest when they are not set


def begin(info: ModelInfo, system_prompt: str, sampling: SamplingSettings, model_hash: str = "") -> Made:
    """What is known before the first word; should the process be killed, it stays so."""
    settings = {name: value for name, value in asdict(sampling).items() if name not in _SELDOM or value}
    name, quantization = short_name(info), info.quantization
    return Made(name, model_hash, quantization, system_prompt, settings, "interrupted", 0, 0, 0, None, None)


def end(made: Made, progress: Progress, before: Made | None = None) -> Made:
    """What is known at the end; `before` is how the part was made that the answer was continued from."""
    stats = progress.stats or _reckoned(progress)
    whole = replace(
        made,
        reason=_reason(progress),
        prompt_tokens=stats.prompt_tokens,
        cached_tokens=stats.cached_tokens,
        generated_tokens=stats.generated_tokens,
        first_text_seconds=progress.first_text_seconds,
        decode_seconds=stats.decode_seconds if stats.generated_tokens else None,
        dropped_messages=progress.dropped.messages if progress.dropped else 0,
    )
    return _joined(before, whole) if before is not None and before.generated_tokens else whole


def _joined(before: Made, after: Made) -> Made:
    return replace(
        after,
        prompt_tokens=before.prompt_tokens,
        cached_tokens=before.cached_tokens,
        generated_tokens=before.generated_tokens + after.generated_tokens,
        first_text_seconds=before.first_text_seconds,
        decode_seconds=(before.decode_seconds or 0.0) + (after.decode_seconds or 0.0),
    )


def _reckoned(progress: Progress) -> RequestStats:
    """The numbers of an answer that broke off, as far as they were seen from here."""
    read = progress.prompt.done if progress.prompt else 0
    cached = progress.prompt.cached if progress.prompt else 0
    seconds = (progress.last_text or 0.0) - (progress.first_text or 0.0)
    return RequestStats(read, cached, progress.pieces, 0.0, 0.0, seconds)


def _reason(progress: Progress) -> Reason:
    if progress.error is not None:
        return "error"
    return progress.reason or "cancelled"  # the reader went away
