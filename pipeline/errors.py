"""What can go wrong in the pipeline, each said in one line that names the thing, the value and the fix."""

from __future__ import annotations

from collections.abc import Sequence


class PipelineError(Exception):
    """Any failure of the pipeline that is reported to a person (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str, more: Sequence[str] = ()) -> None:
        """`more` are lines on further mistakes of the same kind."""
        super().__init__(message)
        self.more = tuple(more)


class InputError(PipelineError):
    """What was asked for cannot be done: the input is wrong (exit code 2)."""

    exit_code = 2


class MissingPackage(InputError):
    """A package that the pipeline needs is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the Python package {package!r} is not installed: "
            "run `pip install -r requirements-pipeline.txt` (or `make setup`)"
        )
