"""The base alone as a GGUF, against which the tuning is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.certificate.subject import Subject
from pipeline.convert import ConvertJob


def why_no_base(subject: Subject) -> str:
    """Why there is no tuning to measure; empty when there is one."""
    if subject.base is None or subject.toolchain is None:
        return "the base is not known"
    return "" if subject.adapters else "there is no adapter"


@contextmanager
def base_gguf(subject: Subject) -> Iterator[Path]:
    """The base's GGUF in f16, in the scratch folder, for as long as the context lasts.

    Converted in this process, which is a child already: one more would spend two seconds on imports.
    Raises InputError for what llama.cpp does not convert.
    """
    from pipeline.convert_child import convert

    assert subject.base is not None and subject.toolchain is not None
    target = subject.scratch / "base.gguf"
    job = ConvertJob(subject.base, (), "f16", target, "base", subject.toolchain, subject.threads)
    try:
        convert(job.request())
        yield target
    finally:
        target.unlink(missing_ok=True)
