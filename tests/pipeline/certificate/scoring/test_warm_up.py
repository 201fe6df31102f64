"""What is asked ahead of `quality`, with a backend that nobody has tried: the process is the trial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.probe.cpu_backend import cache_path, is_known, probe_model
from pipeline.certificate.runner.certify import Checker
from pipeline.certificate.subject import Subject
from pipeline.exporter.certify_step import PREPARE
from pipeline.progress import NoProgress


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[Checker]:
    with Checker(tmp_path) as checker:
        yield checker


def test_a_trial_vouches_for_what_ran_and_leaves_the_rest_to_quality(
    real: Subject, checker: Checker, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(real.full.read_bytes())
    bad.write_bytes(b"GGUF" + b"\xff" * good.stat().st_size)  # larger: the smallest file picks the backend
    subject = replace(real, scratch=tmp_path, files={"good": good})
    assert checker.check(subject, NoProgress(), (PREPARE,)) == []
    assert is_known(good, extra_buffers=True)

    both = replace(subject, files={"good": good, "bad": bad})
    [died] = checker.check(both, NoProgress(), (PREPARE,))
    assert "came to no end" in died.summary and "bad.gguf" in died.summary
    assert not is_known(bad, extra_buffers=True)
    found = {(one.name, one.file): one for one in checker.check(both, NoProgress(), ("quality",))}
    assert found["quantization", "good"].status == "pass"
    assert found["quantization", "bad"].status == "fail"


def test_what_a_trial_remembers_is_what_a_probe_finds(
    real: Subject, checker: Checker, tmp_path: Path
) -> None:
    file = tmp_path / "good.gguf"
    file.write_bytes(real.full.read_bytes())
    checker.check(replace(real, scratch=tmp_path, files={"good": file}), NoProgress(), (PREPARE,))
    vouched = probe_model(file)
    cache_path("probe", file, True).unlink()
    assert probe_model(file) == vouched
