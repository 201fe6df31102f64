"""Certify a subject: run the checks in a worker process, and continue with the next when one crashes it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.certificate import Certificate, Finding
from common.dataclass_json import to_json
from common.files import sha256
from common.worker_process import Message, WorkerDied, WorkerProcess
from ggufio.shards import shard_paths
from pipeline.certificate.subject import Subject, strip_folders
from pipeline.manifest import versions
from pipeline.progress import Advance, StepProgress

NAMES: tuple[str, ...] = ("tokenizer", "template", "settings", "weights", "logits", "quality", "behaviour")
"""The names in `registry.CHECKS`, in order; repeated here, since importing the checks is slow."""


_MAX_LOG_LINES = 20


def certify(
    subject: Subject,
    progress: StepProgress,
    *,
    names: Sequence[str] = NAMES,
    hashes: dict[str, str] | None = None,
    inputs: dict[str, Any] | None = None,
) -> Certificate:
    """Run the checks of these names. `hashes` of the files are computed if they are not given.

    Raises InputError for wrong input; a check that crashes becomes a finding.
    """
    with Checker(subject.scratch) as checker:
        findings = checker.check(subject, progress, names)
    if hashes is None:
        models = (subject.full, *subject.files.values())
        hashes = {path.name: sha256(path) for model in models for path in shard_paths(model)}
    return Certificate.of(findings, hashes, versions(), inputs or {})


class Checker:
    """Runs checks in a worker process, which is started at once, and restarted after a crash."""

    def __init__(self, scratch: Path, name: str = "certificate") -> None:
        """Start the worker, with its log in the folder `scratch` under this name."""
        self._log = scratch / f"{name}.log"
        self._closed = False
        self._worker = self._start()

    def _start(self) -> WorkerProcess:
        return WorkerProcess("pipeline.certificate.runner.worker", self._log)

    def check(self, subject: Subject, progress: StepProgress, names: Sequence[str]) -> list[Finding]:
        """Run the checks of these names, one after another. Raises as `certify` does."""
        findings: list[Finding] = []
        remaining = list(names)
        while remaining:
            run = _CheckRun(progress)
            try:
                run.run(self._worker, subject, remaining)
            except WorkerDied as error:
                if self._closed:
                    raise
                crashed = run.current or remaining[0]
                findings += [*run.findings, _crash_finding(crashed, error)]
                remaining = remaining[remaining.index(crashed) + 1 :]
                self._worker.close()
                self._worker = self._start()
            else:
                findings += run.findings
                remaining = []
        return findings

    def close(self) -> None:
        """End the worker, even during a check."""
        self._closed = True
        self._worker.close()

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _CheckRun:
    """A request to the worker: the findings so far, the running check, and its progress bar."""

    def __init__(self, progress: StepProgress) -> None:
        self.findings: list[Finding] = []
        self.current = ""
        self._progress = progress
        self._step = ExitStack()
        self._advance: Advance = lambda done, note="": None

    def run(self, worker: WorkerProcess, subject: Subject, names: Sequence[str]) -> None:
        """Run the checks to their end; raises WorkerDied when the worker crashes before."""
        with self._step:
            worker.run({"subject": to_json(subject), "checks": list(names)}, self._receive)

    def _receive(self, message: Message) -> None:
        if "check" in message:
            self.current = message["check"]
        elif "finding" in message:
            self.findings.append(Finding(**message["finding"]))
        elif "step" in message:
            self._step.close()
            self._advance = self._step.enter_context(self._progress.step(message["step"], message["total"]))
        elif "done" in message:
            self._advance(message["done"])


def _crash_finding(check: str, error: WorkerDied) -> Finding:
    """Return the finding on a crashed check, with the end of the worker's log, which is deleted later."""
    log = error.log.read_text(encoding="utf-8", errors="replace").splitlines() if error.log else []
    return Finding(
        check,
        "fail",
        f"The check came to no end: {strip_folders(error.reason)}.",
        {"log": [strip_folders(line) for line in log[-_MAX_LOG_LINES:]]},
        threshold="A sound file is read and computed with to the end.",
        cause="llama.cpp aborted or ran out of memory; the file may be damaged: make it anew.",
    )
