"""The certificate as a step of an export: made in the background, reused while it is valid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.certificate import NAME, Certificate, Finding, load_certificate
from common.files import sha256, write_atomically
from ggufio.shards import split_names, whole_name
from pipeline.certificate.runner.certify import NAMES, Checker
from pipeline.certificate.subject import Subject, tokenizer_reference_file
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.resume import merged_into
from pipeline.exporter.size_finding import size_finding
from pipeline.manifest import Record, versions
from pipeline.progress import NoProgress, StepProgress
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.tokenizers.select import stage_checkpoint

SCRATCH = "certificate"
"""The checks' folder in the workspace; the converter saves its tokenizer reference there."""


@dataclass(frozen=True)
class CertificateStep:
    """The certificate of one export: its subject, its inputs and its file."""

    config: ExportConfig
    base: Source
    adapters: tuple[Adapter, ...]
    scratch: Path

    @property
    def tokenizer_reference(self) -> Path:
        """The path for the converter's tokenizer reference."""
        return tokenizer_reference_file(self.scratch, self.config.evaluation)

    def existing(self, record: Record) -> Certificate | None:
        """Return an earlier certificate of the same files with at least the same checks; None without one."""
        try:
            found = load_certificate(self.config.out / NAME)
        except InputError:
            return None  # another version's: made again
        if found is None or not record.outputs:
            return None
        depths = {"fast": ["fast", "full"], "full": ["full"]}[self.config.verify]
        return found if any(found.inputs == self._inputs(record, depth) for depth in depths) else None

    def write(self, findings: Sequence[Finding], record: Record) -> Certificate:
        """Write certificate.json with the findings on the record's files; return it."""
        inputs = self._inputs(record, self.config.verify)
        certificate = Certificate.of([*findings, *size_finding(record)], record.hashes, versions(), inputs)
        save_certificate(certificate, self.config.out / NAME)
        return certificate

    def subject(self, full: Path, record: Record) -> Subject:
        """Return the subject of the checks, without its quantized files."""
        reference = self.scratch / "reference"
        shutil.rmtree(reference, ignore_errors=True)  # left by an interrupted run
        reference.mkdir(parents=True)
        settings: Mapping[str, object] = record.model.get("settings", {})
        staged = stage_checkpoint(self.base, self.adapters, settings, reference, self.config.given_template)
        return Subject(
            reference=staged.folder,
            full=full,
            scratch=self.scratch,
            threads=self.config.threads,
            loras={name: self.config.out / lora for name, lora in self.config.loras.items()},
            base=self.base,
            adapters=self.adapters,
            rounding=self.config.rounding,
            evaluation=self.config.evaluation,
            depth="full" if self.config.verify == "full" else "fast",
            template_origin=staged.template_origin,
        )

    def files(self, full: Path, record: Record) -> dict[str, Path]:
        """Return the finished quantized files by name; `full` is the full-precision one."""
        others = (full.name, *self.config.loras.values())
        return first_shards(
            self.config.out, [name for name in record.outputs if whole_name(name) not in others]
        )

    def _inputs(self, record: Record, depth: str) -> dict[str, Any]:
        evaluation = self.config.evaluation
        return {
            "export": record.fingerprint,
            "verify": depth,
            "checks": list(NAMES),
            "eval": sha256(evaluation) if evaluation else None,
            "files": dict(sorted(record.hashes.items())),
            **({"merged_into": merged_into(self.config)} if self.config.rounding else {}),
        }


def save_certificate(certificate: Certificate, path: Path) -> None:
    """Write certificate.json atomically."""
    content = json.dumps(certificate.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{content}\n")


def remove_stale_certificate(folder: Path, record: Record) -> None:
    """Remove a certificate of other files than the record's."""
    path = folder / NAME
    try:
        found = load_certificate(path)
    except InputError:
        found = None
    if found is None or found.hashes != record.hashes:
        path.unlink(missing_ok=True)


def first_shards(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return each model's path by its name; for shards the first, from which llama.cpp finds the others."""
    counts: dict[str, int] = {}
    for name in names:
        counts[whole_name(name)] = counts.get(whole_name(name), 0) + 1
    return {name: folder / split_names(name, count)[0] for name, count in counts.items()}


EARLY: tuple[str, ...] = ("tokenizer", "template", "settings", "weights")
"""The checks that need only the full-precision file."""

PREPARE = "prepare"
"""Not a check: it computes scores for `quality` in advance."""


class NoCertification:
    """No certificate, for --verify off: does nothing."""

    def begin(self, full: Path, record: Record) -> None:
        """Called when the full-precision file `full` is finished."""

    def add(self, record: Record) -> None:
        """Called when a further quantized file is finished and recorded."""

    def wait(self) -> None:
        """Return when no file is in use."""

    def finish(self, full: Path, record: Record, progress: StepProgress) -> None:
        """Called when all files are finished."""

    def __enter__(self) -> NoCertification:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class BackgroundCertification:
    """Certifies an export in two worker processes, which start up while it converts.

    One checks the merged model, the other scores the quantized files.
    """

    def __init__(self, step: CertificateStep) -> None:
        self._step = step
        self._subject: Subject | None = None
        self._added: set[str] = set()
        self._early = _CheckQueue(Checker(step.scratch, "early"))
        self._late = _CheckQueue(Checker(step.scratch, "late"))

    def begin(self, full: Path, record: Record) -> None:
        """Start the checks that need only the full-precision file `full`."""
        self._subject = self._step.subject(full, record)
        self._early.add(self._subject, EARLY)

    def add(self, record: Record) -> None:
        """Score the newly finished files. An error is ignored here: `quality` meets it again."""
        assert self._subject is not None
        finished = self._step.files(self._subject.full, record)
        new = {name: path for name, path in finished.items() if name not in self._added}
        self._added |= new.keys()
        self._late.add(replace(self._subject, files=new), (PREPARE,))

    def wait(self) -> None:
        """Return when all started checks are done. Raises InputError for wrong input of the user."""
        self._early.findings()
        self._late.findings()

    def finish(self, full: Path, record: Record, progress: StepProgress) -> Certificate:
        """Run the remaining checks and write the certificate. Raises as `wait` does."""
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
        """Kill the workers, as a check may be running when the export is interrupted."""
        self._early.close()
        self._late.close()


Certification = NoCertification | BackgroundCertification


class _CheckQueue:
    """Checks that run one after another in one worker process."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self._queue = ThreadPoolExecutor(1, "certificate")
        self._jobs: list[Future[list[Finding]]] = []

    def add(self, subject: Subject, names: Sequence[str]) -> None:
        """Run these checks after the earlier ones."""
        self._jobs.append(self._queue.submit(self.checker.check, subject, NoProgress(), names))

    def findings(self) -> list[Finding]:
        """Wait for all checks; return their findings."""
        return [finding for job in self._jobs for finding in job.result()]

    def close(self) -> None:
        """Kill the worker process."""
        self._queue.shutdown(wait=False, cancel_futures=True)
        self.checker.close()
