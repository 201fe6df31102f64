"""Checks that need the file of full precision alone, made while the others are quantized.

Quantizing leaves a core idle now and then; and what the tuned model answers is asked once for all files.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pipeline.certificate.certify import certify
from pipeline.certificate.finding import Finding
from pipeline.certificate.subject import Subject
from pipeline.progress import Silent

EARLY: tuple[str, ...] = ("tokenizer", "template", "settings", "weights")
REFERENCE = "reference"


class Meanwhile:
    """The checks `EARLY` of a subject, under way. An export that is interrupted does not wait for them."""

    def __init__(self, subject: Subject, *, ask: bool) -> None:
        """With `ask`, the tuned model is asked what its quantized files will be compared with."""
        self.subject = subject
        self._names = (*EARLY, REFERENCE) if ask else EARLY
        self._findings: Sequence[Finding] = ()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._findings = certify(self.subject, Silent(), names=self._names, hashes={}).findings
        except Exception as error:  # noqa: BLE001 - the thread's boundary: raised again by `findings`
            self._error = error

    def findings(self) -> Sequence[Finding]:
        """Wait for what they found. Raises InputError for what is wrong with the user's input."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._findings
