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


class NoCertification:
    """Certifies nothing: --verify off."""

    def begin(self, full: Path, record: Record) -> None:
        """The file of full precision stands at `full`."""

    def add(self, record: Record) -> None:
        """One more quantized file stands, as the record says."""

    def wait(self) -> None:
        """Return when no file is being read."""

    def finish(self, full: Path, record: Record, progress: StepProgress) -> None:
        """All files stand, that of full precision at `full`."""

    def __enter__(self) -> NoCertification:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is under way."""


class BackgroundCertification:
    """Certifies an export in two child processes, which are ready when the first file is.

    One checks what concerns the merged model alone, the other scores its quantized files.
    """

    def __init__(self, step: CertificateStep) -> None:
        self._step = step
        self._subject: Subject | None = None
        self._added: set[str] = set()
        self._early = _Line(Checker(step.scratch, "early"))
        self._late = _Line(Checker(step.scratch, "late"))

    def begin(self, full: Path, record: Record) -> None:
        """Check what concerns this file alone."""
        self._subject = self._step.subject(full, record)
        self._early.add(self._subject, EARLY)

    def add(self, record: Record) -> None:
        """Score the files that stand and were not added yet; what goes wrong `quality` will find again."""
        assert self._subject is not None
        standing = self._step.files(self._subject.full, record)
        new = {name: path for name, path in standing.items() if name not in self._added}
        self._added |= new.keys()
        self._late.add(replace(self._subject, files=new), (PREPARE,))

    def wait(self) -> None:
        """Return when all of that is done. Raises InputError for what is wrong with the user's input."""
        self._early.findings()
        self._late.findings()

    def finish(self, full: Path, record: Record, progress: StepProgress) -> Certificate:
        """Make the checks that are left; raises as `wait` does."""
        assert self._subject is not None
        with progress.step("Check the merged model", None):
            self.wait()
        subject = replace(self._subject, full=full, files=self._step.files(full, record))
        late = [name for name in NAMES if name not in EARLY]
        found = self._late.checker.check(subject, progress, late)
        return self._step.write(self._early.findings() + found, record)

    def __enter__(self) -> BackgroundCertification:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody waits for a check that is under way, as when the export is interrupted."""
        self._early.close()
        self._late.close()


Certification = NoCertification | BackgroundCertification


class _Line:
    """Checks that wait for each other, in one child process."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self._queue = ThreadPoolExecutor(1, "certificate")
        self._jobs: list[Future[list[Finding]]] = []

    def add(self, subject: Subject, names: Sequence[str]) -> None:
        """Have these checks made when those before are."""
        self._jobs.append(self._queue.submit(self.checker.check, subject, Silent(), names))

    def findings(self) -> list[Finding]:
        """What all of them found, once they are made."""
        return [finding for job in self._jobs for finding in job.result()]

    def close(self) -> None:
        """End it, whatever it does."""
        self._queue.shutdown(wait=False, cancel_futures=True)
        self.checker.close()
