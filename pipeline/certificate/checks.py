"""The checks of a certificate, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.certificate.finding import Finding
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress

Check = Callable[[Subject, StepProgress], Iterator[Finding]]
"""Yields what it finds; raises InputError for what the user has to mend."""

CHECKS: dict[str, Check] = {}
"""By a name that people see when a check dies on the way. What is slow to import, a check imports itself."""
