"""Subject -> certificate: runs the checks in a child process, and lives on when one of them dies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pipeline.certificate.finding import Certificate, Finding
from pipeline.certificate.subject import Subject
from pipeline.child import Message, run_child
from pipeline.errors import InputError, PipelineError
from pipeline.manifest import sha256, versions
from pipeline.progress import Advance, StepProgress
from pipeline.shards import shard_paths

NAMES: tuple[str, ...] = ("tokenizer", "template", "settings", "weights", "logits", "quality", "behaviour")
"""The checks of `checks.CHECKS` in their order; told here too, since importing those is slow."""


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
    findings: list[Finding] = []
    waiting = list(names)
    while waiting:
        run = _Run(progress)
        try:
            run.checks(subject, waiting)
        except InputError:  # the input is at fault, not a check
            raise
        except PipelineError as error:
            findings += [*run.findings, _died(run.current or waiting[0], error)]
            waiting = waiting[waiting.index(run.current or waiting[0]) + 1 :]
        else:
            findings += run.findings
            waiting = []
    if hashes is None:
        models = (subject.full, *subject.files.values())
        hashes = {path.name: sha256(path) for model in models for path in shard_paths(model)}
    return Certificate(tuple(findings), hashes, versions(), inputs or {})


class _Run:
    """One child process: what it found, the check that it is at, and the bar that it shows."""

    def __init__(self, progress: StepProgress) -> None:
        self.findings: list[Finding] = []
        self.current = ""
        self._progress = progress
        self._step = ExitStack()
        self._advance: Advance = lambda done: None

    def checks(self, subject: Subject, names: Sequence[str]) -> None:
        """Run those checks to their end; raises PipelineError when the child dies on the way."""
        log = subject.scratch / "certificate.log"
        request = {"subject": subject.request(), "checks": list(names)}
        with self._step:
            run_child("pipeline.certificate.checks_child", request, log, self._hear)

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


def _died(check: str, error: PipelineError) -> Finding:
    return Finding(
        check,
        "fail",
        f"The check came to no end: {error}.",
        threshold="A sound file is read and computed with to the end.",
        cause="llama.cpp aborted or ran out of memory; the file may be damaged: make it anew.",
    )
