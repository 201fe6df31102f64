"""Subject -> findings: runs the checks in a child process, and lives on when one of them dies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.dataclass_json import to_json
from common.files import sha256
from common.worker_process import Message, WorkerDied, WorkerProcess
from ggufio.shards import shard_paths
from pipeline.certificate.finding import Certificate, Finding
from pipeline.certificate.subject import Subject, without_folders
from pipeline.manifest import versions
from pipeline.progress import Advance, StepProgress

NAMES: tuple[str, ...] = ("tokenizer", "template", "settings", "weights", "logits", "quality", "behaviour")
"""The checks of `checks.CHECKS` in their order; told here too, since importing those is slow."""


_LOG_LINES = 20


def certify(
    subject: Subject,
    progress: StepProgress,
    *,
    names: Sequence[str] = NAMES,
    hashes: dict[str, str] | None = None,
    inputs: dict[str, Any] | None = None,
) -> Certificate:
    """Make the checks of those names. `hashes` of the files are reckoned where they are not given.

    Raises InputError for what is wrong with the input; a check that dies is a finding.
    """
    with Checker(subject.scratch) as checker:
        findings = checker.check(subject, progress, names)
    if hashes is None:
        models = (subject.full, *subject.files.values())
        hashes = {path.name: sha256(path) for model in models for path in shard_paths(model)}
    return Certificate(tuple(findings), hashes, versions(), inputs or {})


class Checker:
    """Makes checks in a child process, which starts at once, and anew when a check has killed it."""

    def __init__(self, scratch: Path, name: str = "certificate") -> None:
        """`scratch` is a folder for the child's log, of that name."""
        self._log = scratch / f"{name}.log"
        self._closed = False
        self._child = self._started()

    def _started(self) -> WorkerProcess:
        return WorkerProcess("pipeline.certificate.runner.worker", self._log)

    def check(self, subject: Subject, progress: StepProgress, names: Sequence[str]) -> list[Finding]:
        """Make the checks of those names, one after another. Raises as `certify` does."""
        findings: list[Finding] = []
        waiting = list(names)
        while waiting:
            run = _Run(progress)
            try:
                run.checks(self._child, subject, waiting)
            except WorkerDied as error:
                if self._closed:
                    raise
                findings += [*run.findings, _died(run.current or waiting[0], error)]
                waiting = waiting[waiting.index(run.current or waiting[0]) + 1 :]
                self._child.close()
                self._child = self._started()
            else:
                findings += run.findings
                waiting = []
        return findings

    def close(self) -> None:
        """End the child, whatever it does."""
        self._closed = True
        self._child.close()

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Run:
    """Some checks in the child: what was found, the check that is under way, and the bar that it shows."""

    def __init__(self, progress: StepProgress) -> None:
        self.findings: list[Finding] = []
        self.current = ""
        self._progress = progress
        self._step = ExitStack()
        self._advance: Advance = lambda done: None

    def checks(self, child: WorkerProcess, subject: Subject, names: Sequence[str]) -> None:
        """Run those checks to their end; raises WorkerDied when the child dies on the way."""
        with self._step:
            child.run({"subject": to_json(subject), "checks": list(names)}, self._hear)

    def _hear(self, message: Message) -> None:
        if "check" in message:
            self.current = message["check"]
        elif "finding" in message:
            self.findings.append(Finding(**message["finding"]))
        elif "step" in message:
            self._step.close()
            self._advance = self._step.enter_context(self._progress.step(message["step"], message["total"]))
        elif "done" in message:
            self._advance(message["done"])


def _died(check: str, error: WorkerDied) -> Finding:
    """The finding, with the end of the child's log, which goes with the scratch folder."""
    log = error.log.read_text(encoding="utf-8", errors="replace").splitlines() if error.log else []
    return Finding(
        check,
        "fail",
        f"The check came to no end: {without_folders(error.reason)}.",
        {"log": [without_folders(line) for line in log[-_LOG_LINES:]]},
        threshold="A sound file is read and computed with to the end.",
        cause="llama.cpp aborted or ran out of memory; the file may be damaged: make it anew.",
    )
