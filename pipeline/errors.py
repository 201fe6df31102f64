"""Errors of the pipeline: one line each that names the thing, the value and the fix."""

from __future__ import annotations

from common.errors import InputError, UserError

__all__ = ["InputError", "PipelineError"]


class PipelineError(UserError):
    """A step of the pipeline failed although its input was valid (exit code 1)."""
