"""The certificate as a step of an export: made of what stands in the output folder, and made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.files import sha256, write_atomically
from ggufio.shards import split_names, whole_name
from pipeline.certificate.finding import NAME, Certificate, Finding, load_certificate
from pipeline.certificate.runner.certify import NAMES, Checker
from pipeline.certificate.subject import Subject, tokenizer_reference_file
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.manifest import Record, versions
from pipeline.progress import NoProgress, StepProgress
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.tokenizers.select import stage_checkpoint

SCRATCH = "certificate"
"""Its folder in the workspace, where the converter leaves what transformers says of the tokenizer."""


@dataclass(frozen=True)
class CertificateStep:
    """Certifies the files of one export."""

    config: ExportConfig
    base: Source
    adapters: tuple[Adapter, ...]
    scratch: Path

    @property
    def tokenizer_reference(self) -> Path:
        """Where the converter may write down what transformers says of the tokenizer."""
        return tokenizer_reference_file(self.scratch, self.config.evaluation)

    def standing(self, record: Record) -> Certificate | None:
        """The certificate that an earlier run made of the same files with the same checks, or of more."""
        try:
            found = load_certificate(self.config.out / NAME)
        except InputError:
            return None  # of another version: made anew
        if found is None or not record.outputs:
            return None
        depths = {"fast": ["fast", "full"], "full": ["full"]}[self.config.verify]
        return found if any(found.inputs == self._inputs(record, depth) for depth in depths) else None

    def write(self, findings: Sequence[Finding], record: Record) -> Certificate:
        """Write certificate.json: what was found of the files of the record."""
        hashes = {name: output.sha256 for name, output in record.outputs.items()}
        certificate = Certificate(
            tuple(findings), hashes, versions(), self._inputs(record, self.config.verify)
        )
        save_certificate(certificate, self.config.out / NAME)
        return certificate

    def subject(self, full: Path, record: Record) -> Subject:
        """What is certified, without its quantized files."""
        reference = self.scratch / "reference"
        shutil.rmtree(reference, ignore_errors=True)  # of a run that was interrupted
        reference.mkdir(parents=True)
        settings: Mapping[str, object] = record.model.get("settings", {})
        return Subject(
            reference=stage_checkpoint(self.base, self.adapters, settings, reference).folder,
            full=full,
            scratch=self.scratch,
            threads=self.config.threads,
            base=self.base,
            adapters=self.adapters,
            qlora_base=self.config.qlora_base,
            evaluation=self.config.evaluation,
            depth="full" if self.config.verify == "full" else "fast",
        )

    def files(self, full: Path, record: Record) -> dict[str, Path]:
        """The quantized files that stand by now, by name; `full` is the one of full precision."""
        return first_shards(
            self.config.out, [name for name in record.outputs if whole_name(name) != full.name]
        )

    def _inputs(self, record: Record, depth: str) -> dict[str, Any]:
        evaluation = self.config.evaluation
        return {
            "export": record.fingerprint,
            "verify": depth,
            "checks": list(NAMES),
            "eval": sha256(evaluation) if evaluation else None,
            "files": {name: output.sha256 for name, output in sorted(record.outputs.items())},
        }


def save_certificate(certificate: Certificate, path: Path) -> None:
    """Write certificate.json, whole or not at all."""
    content = json.dumps(certificate.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{content}\n")


def remove_stale_certificate(folder: Path, record: Record) -> None:
    """Remove a certificate of files that are no longer those that stand."""
    path = folder / NAME
    try:
        found = load_certificate(path)
    except InputError:
        found = Certificate((), {}, {})
    if found is not None and found.hashes != {name: one.sha256 for name, one in record.outputs.items()}:
        path.unlink()


def first_shards(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Each model's file by its name; of shards the first, from which llama.cpp finds the others."""
    counts: dict[str, int] = {}
    for name in names:
        counts[whole_name(name)] = counts.get(whole_name(name), 0) + 1
    return {name: folder / split_names(name, count)[0] for name, count in counts.items()}


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
        self._jobs.append(self._queue.submit(self.checker.check, subject, NoProgress(), names))

    def findings(self) -> list[Finding]:
        """What all of them found, once they are made."""
        return [finding for job in self._jobs for finding in job.result()]

    def close(self) -> None:
        """End it, whatever it does."""
        self._queue.shutdown(wait=False, cancel_futures=True)
        self.checker.close()
