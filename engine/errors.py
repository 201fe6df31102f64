"""What can go wrong in the engine, each said in one line that names the value and the fix."""

from __future__ import annotations

from common.errors import UserError


class TooSlow(Exception):
    """The calls took longer in all than they may."""


class EngineError(UserError):
    """Any failure of the engine that is reported to a person."""


class SettingsError(EngineError, ValueError):
    """A setting is out of range."""


class ModelError(EngineError):
    """The model file cannot be used: missing, truncated, not a GGUF, or without a usable chat template."""


class BackendError(EngineError):
    """No CPU backend of llama.cpp runs on this machine."""


class RequestError(EngineError, ValueError):
    """A request cannot be served as it stands: too long, empty, or badly formed."""


class QueueFull(EngineError):
    """The engine's queue is full; the caller may try again later."""


class EngineStopped(EngineError):
    """The engine was shut down, or its thread died, before the answer was complete."""
