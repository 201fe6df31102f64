"""Errors whose messages are written for the user: one line that names the thing, the value and the fix."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """The base of every error that is reported to the user as a single line (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str = "", more: Sequence[str] = ()) -> None:
        """`more` has further lines about mistakes of the same kind."""
        super().__init__(message)
        self.more = tuple(more)


class InputError(UserError):
    """The input is wrong, or the output cannot be written where it was asked for (exit code 2)."""

    exit_code = 2


class MissingPackage(InputError):
    """A Python package that the pipeline needs is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the Python package {package!r} is not installed: "
            "run `pip install -r requirements-pipeline.txt` (or `make setup`)"
        )
