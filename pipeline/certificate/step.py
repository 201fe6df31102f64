"""The certificate as a step of an export: made of what stands in the output folder, and made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.adapter import Adapter
from pipeline.certificate.certify import NAMES
from pipeline.certificate.finding import NAME, Certificate, Finding, load_certificate
from pipeline.certificate.subject import Subject, tokenizer_reference_file
from pipeline.config import ExportConfig
from pipeline.errors import InputError
from pipeline.manifest import Record, sha256, versions, write_atomically
from pipeline.source import Source
from pipeline.staging import staged
from shards import split_names, whole_name

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
            reference=staged(self.base, self.adapters, settings, reference).folder,
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


def remove_stale(folder: Path, record: Record) -> None:
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
