"""The pipeline's errors; each message is one line with the thing, the value and the fix."""

from __future__ import annotations

from common.errors import InputError, UserError

__all__ = ["InputError", "PipelineError"]


class PipelineError(UserError):
    """A step that failed although its input was valid (exit code 1)."""
