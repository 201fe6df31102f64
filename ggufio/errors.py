"""Errors of reading a GGUF file."""

from __future__ import annotations

from common.errors import InputError, UserError


class GgufError(UserError):
    """A GGUF file cannot be used: it is damaged, truncated, or not a GGUF at all."""


class MissingShard(GgufError, InputError):
    """A model of several files lacks one of them (exit code 2)."""

    exit_code = 2
