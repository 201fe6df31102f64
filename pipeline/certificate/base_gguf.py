"""The base alone as a GGUF, against which the tuning is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.certificate.subject import Subject
from pipeline.convert import ConvertJob
from pipeline.toolchain import ensure_toolchain


def base_alone(scratch: Path) -> Path:
    """Where the converter may have left the base's GGUF on its way (ConvertJob.base_alone)."""
    return scratch / "base.gguf"


def why_no_base(subject: Subject) -> str:
    """Why there is no tuning to measure; empty when there is one."""
    if subject.base is None:
        return "the base is not known"
    return "" if subject.adapters else "there is no adapter"


@contextmanager
def base_gguf(subject: Subject) -> Iterator[Path]:
    """The base's GGUF, removed when the context ends.

    Where the converter left none it is made in this process, which is a child already: one more would spend
    two seconds on imports. Raises InputError for what llama.cpp does not convert.
    """
    assert subject.base is not None
    target = base_alone(subject.scratch)
    try:
        if not target.is_file():
            partial = target.with_suffix(".partial")
            job = ConvertJob(subject.base, (), "f16", partial, "base", ensure_toolchain(), subject.threads)
            _convert(job)
            partial.replace(target)
        yield target
    finally:
        target.unlink(missing_ok=True)


def _convert(job: ConvertJob) -> None:
    from pipeline.convert_child import convert  # imports torch, which is not needed elsewhere here

    convert(job.request())
