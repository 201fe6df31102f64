"""Background certification: the requests to the worker processes as files are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from common.certificate import Finding
from pipeline.certificate.subject import Subject
from pipeline.exporter import certify_step as background
from pipeline.exporter.certify_step import BackgroundCertification, CertificateStep
from pipeline.exporter.config import ExportConfig
from pipeline.manifest import Output, Record
from pipeline.progress import StepProgress
from pipeline.sources.model_source import Source


@dataclass
class Asked:
    """A fake worker process that records the files to score."""

    scratch: Path
    name: str
    files: ClassVar[list[list[str]]] = []

    def check(self, subject: Subject, progress: StepProgress, names: Sequence[str]) -> list[Finding]:
        if background.PREPARE in names:
            self.files.append(list(subject.files))
        return []

    def close(self) -> None:
        pass


class Step(CertificateStep):
    def subject(self, full: Path, record: Record) -> Subject:
        return Subject(self.scratch, full, self.scratch, 1)


def test_each_file_is_scored_once_while_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "Checker", Asked)
    step = Step(ExportConfig("base", tmp_path), Source("base", tmp_path, None), (), tmp_path)
    record = Record("f")
    with BackgroundCertification(step) as certification:
        certification.begin(tmp_path / "bob-F16.gguf", record)
        for quant in ("Q4_K_M", "Q5_K_M"):
            name = f"bob-{quant}.gguf"
            record.outputs[name] = Output(name, quant, 1, 4.5, 0.1, "", 0)
            certification.add(record)
        certification.wait()
    assert Asked.files == [["bob-Q4_K_M.gguf"], ["bob-Q5_K_M.gguf"]]
