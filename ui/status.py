"""What is happening, in words: the facts above the chat and the line below it. Plain HTML, all escaped."""

from __future__ import annotations

from html import escape
from pathlib import Path

from engine.backend import ModelInfo
from engine.errors import EngineError, EngineStopped, QueueFull
from engine.request import Dropped
from ui.streaming import Progress

HOW_TO_BRING_ONE = (
    "This is the small model that comes with GGUF Chat. Bring your own: "
    "<code>python app.py PATH/TO/MODEL.gguf</code>"
)


def size_text(size: int) -> str:
    """Bytes as a person says them: 1.4 GB, 95 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def parameters_text(count: int) -> str:
    """A parameter count as models are named: 3.8 B, 135 M."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{max(1, round(count / 1e6))} M"


def short_name(info: ModelInfo) -> str:
    """The file's name without its type, which people know; what the file calls itself is often a run's id."""
    stem = Path(info.path).stem
    for joint in "-._":
        stem = stem.removesuffix(f"{joint}{info.quantization}")
    return stem or info.name


def model_name(info: ModelInfo) -> str:
    """The page's head."""
    return f"<h1>{escape(short_name(info))}</h1>"


def facts_text(info: ModelInfo) -> str:
    """What the model is made of, in one line."""
    facts = [info.quantization, f"{parameters_text(info.parameters)} parameters", size_text(info.size)]
    facts.append(f"{info.context:,} tokens of context")
    return " · ".join(fact for fact in facts if fact)


def model_facts(info: ModelInfo, embedded: bool = False) -> str:
    """The line below the head, and for the embedded model how to bring another."""
    hint = f"<p>{HOW_TO_BRING_ONE}</p>" if embedded else ""
    return f"<p>{escape(facts_text(info))}</p>{hint}"


def line(text: str, kind: str = "") -> str:
    """One line under the conversation; `kind` is busy, note, error or nothing."""
    return f"<div class='status {kind}' role='status' aria-live='polite'>{escape(text)}</div>"


def status(progress: Progress) -> str:
    """The line for an answer under way or at its end."""
    if progress.error is not None:
        return error_line(progress.error, partial=bool(progress.text))
    if progress.reason is not None:
        plain = progress.reason == "stop" and progress.dropped is None
        return line(outcome_text(progress), "" if plain else "note")
    if progress.first_text is not None:
        rate = f" · about {progress.rate:.0f} tokens/s" if progress.rate else ""
        return line(f"Writing{rate}", "busy")
    return line(_before_the_first_word(progress), "busy")


def _before_the_first_word(progress: Progress) -> str:
    if progress.position > 1:
        return f"Waiting · {progress.position - 1} ahead of you"
    if progress.position == 1:
        return "Waiting · you are next"
    if progress.prompt is not None and progress.prompt.total > 0:
        return f"Reading the prompt · {100 * progress.prompt.done // progress.prompt.total} %"
    return "Starting"


def outcome_text(progress: Progress) -> str:
    """How a finished answer went: why it ended, when that is worth a word, and its numbers."""
    why = {
        "length": "Cut at the length limit: raise “Maximum new tokens” for more",
        "time": "Cut at the time limit of this server",
        "cancelled": "Stopped",
    }
    parts = [why[progress.reason]] if progress.reason in why else []
    if progress.dropped is not None:
        parts.append(_dropped_text(progress.dropped))
    if progress.stats is not None:
        parts += [f"{progress.stats.generated_tokens} tokens", f"{progress.rate:.1f} tokens/s"]
    if progress.first_text_seconds is not None:
        parts.append(f"first word after {progress.first_text_seconds:.2f} s")
    return " · ".join(parts)


def _dropped_text(dropped: Dropped) -> str:
    count = dropped.messages
    which = "oldest message was" if count == 1 else f"{count} oldest messages were"
    return f"The chat is long: its {which} not read again"


def explain(error: EngineError) -> str:
    """An engine's error for someone who only wanted an answer: what happened, and what to do."""
    if isinstance(error, QueueFull):
        return "Too many people are asking right now. Wait a moment and send it again."
    if isinstance(error, EngineStopped):
        return f"The answer broke off: {error}."
    return f"That did not work: {error}."


def error_line(error: EngineError, partial: bool = False) -> str:
    """The line for an answer that failed."""
    kept = " What it had written so far is kept." if partial else ""
    return line(explain(error) + kept, "error")
