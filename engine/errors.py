"""Errors of the engine: one line each that names the value and the fix."""

from __future__ import annotations

import logging

from common.errors import UserError

_log = logging.getLogger(__name__)
_LONGEST = 200  # characters of a foreign error that are shown


class TooSlow(Exception):
    """The calls exceeded their time budget."""


class EngineError(UserError):
    """The base of every engine error that is reported to the user."""


class SettingsError(EngineError, ValueError):
    """A setting is out of range."""


class ModelError(EngineError):
    """The model file cannot be used: missing, truncated, not a GGUF, or without a usable chat template."""


class BackendError(EngineError):
    """No CPU backend of llama.cpp runs on this machine."""


class RequestError(EngineError, ValueError):
    """A request cannot be served: too long, empty, or badly formed."""


class PromptTooLong(RequestError):
    """A text without turns that could be dropped has more tokens than the context leaves room for."""


class QueueFull(EngineError):
    """The engine's queue is full; the caller may try again later."""


class EngineStopped(EngineError):
    """The engine was shut down, or its thread died, before the answer was complete."""


class Unforeseen(EngineError):
    """A fault of the program or of a library: the log has its traceback."""


def foreseen(error: Exception) -> EngineError:
    """Return an EngineError as it is, and any other error, which is logged, as `Unforeseen`."""
    if isinstance(error, EngineError):
        return error
    _log.error("an unforeseen error: %s", error, exc_info=error)
    words = " ".join(str(error).split())
    shown = f"{words[:_LONGEST]} …" if len(words) > _LONGEST else words
    return Unforeseen(f"{type(error).__name__}: {shown}" if shown else type(error).__name__)
