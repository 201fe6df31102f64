"""A certificate in the making while files are still being made: checks run one after another behind them.

The converter leaves a core idle, and so does quantizing now and then. What concerns the merged model alone is
checked as soon as that stands; each quantized file is scored while the next one is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pipeline.certificate.certify import NAMES, Checker
from pipeline.certificate.finding import Certificate, Finding
from pipeline.certificate.step import CertificateStep
from pipeline.certificate.subject import Subject
from pipeline.manifest import Record
from pipeline.progress import Silent, StepProgress

EARLY: tuple[str, ...] = ("tokenizer", "template", "settings", "weights")
"""The checks that need the file of full precision alone."""
PREPARE = "prepare"
"""No check: it computes what `quality` will need."""


class Uncertified:
    """Certifies nothing: --verify off."""

    def begin(self, full: Path, record: Record) -> None:
        """The file of full precision stands at `full`."""

    def add(self, record: Record) -> None:
        """One more quantized file stands, as the record says."""

    def wait(self) -> None:
        """Return when no file is being read."""

    def finish(self, full: Path, record: Record, progress: StepProgress) -> Certificate | None:
        """All files stand, that of full precision at `full`; returns the certificate."""
        return None

    def __enter__(self) -> Uncertified:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody waits for a check that is under way, as when the export is interrupted."""


class Meanwhile(Uncertified):
    """Certifies an export in one child process, which is ready when the first file is."""

    def __init__(self, step: CertificateStep) -> None:
        self._step = step
        self._checker = Checker(step.scratch)
        self._queue = ThreadPoolExecutor(1, "certificate")
        self._subject: Subject | None = None
        self._early: Future[list[Finding]] | None = None
        self._alone = False

    def begin(self, full: Path, record: Record) -> None:
        """Check what concerns this file alone, and ask it what the others will be compared with."""
        self._subject = self._step.subject(full, record)
        self._early = self._submit(self._subject, EARLY)
        self.add(record)

    def add(self, record: Record) -> None:
        """Score the files that stand and were not scored; what goes wrong `quality` will find again."""
        assert self._subject is not None
        files = self._step.files(self._subject.full, record)
        if self._step.config.quants:
            self._submit(replace(self._subject, files=files), (PREPARE,))

    def _submit(self, subject: Subject, names: Sequence[str]) -> Future[list[Finding]]:
        return self._queue.submit(self._check, subject, names)

    def _check(self, subject: Subject, names: Sequence[str]) -> list[Finding]:
        """Beside other work half the threads decode: llama.cpp's spin while they wait for each other."""
        if names == (PREPARE,) and not self._alone:
            subject = replace(subject, threads=max(1, subject.threads // 2))
        return self._checker.check(subject, Silent(), names)

    def wait(self) -> None:
        """Return when all of that is done."""
        self._alone = True
        self._queue.submit(lambda: None).result()

    def finish(self, full: Path, record: Record, progress: StepProgress) -> Certificate:
        """Make the checks that are left. Raises InputError for what is wrong with the user's input."""
        assert self._subject is not None
        assert self._early is not None
        with progress.step("Check the merged model", None):
            self.wait()
        subject = replace(self._subject, full=full, files=self._step.files(full, record))
        late = [name for name in NAMES if name not in EARLY]
        findings = self._early.result() + self._checker.check(subject, progress, late)
        return self._step.write(findings, record)

    def __exit__(self, *_: object) -> None:
        self._queue.shutdown(wait=False, cancel_futures=True)
        self._checker.close()
