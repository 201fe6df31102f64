"""The base alone as a GGUF, where the tuning cannot be taken off the tuned model (subtracted.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.certificate.subject import Subject
from pipeline.convert import ConvertJob, convert
from pipeline.progress import Silent
from pipeline.toolchain import ensure_toolchain


def why_no_base(subject: Subject) -> str:
    """Why there is no tuning to measure; empty when there is one."""
    if subject.base is None:
        return "the base is not known"
    return "" if subject.adapters else "there is no adapter"


@contextmanager
def base_gguf(subject: Subject) -> Iterator[Path]:
    """The base's GGUF, removed when the context ends.

    Raises InputError for what llama.cpp does not convert.
    """
    assert subject.base is not None
    target = subject.scratch / "base.gguf"
    try:
        convert(
            ConvertJob(subject.base, (), "f16", target, "base", ensure_toolchain(), subject.threads), Silent()
        )
        yield target
    finally:
        target.unlink(missing_ok=True)
