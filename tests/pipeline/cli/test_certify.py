"""The exit codes of `certify`, which a gate goes by."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.certificate import Certificate, Finding, Status
from pipeline.certificate.runner.external import ExternalCheck
from pipeline.cli import export
from pipeline.errors import InputError
from pipeline.progress import StepProgress


def exit_code(*arguments: str) -> int:
    return CliRunner().invoke(export.certify_app, arguments, env={"COLUMNS": "80"}).exit_code


@pytest.mark.parametrize(
    ("status", "options", "code"),
    [
        ("pass", (), 0),
        ("warn", (), 0),
        ("fail", (), 1),
        ("pass", ("--strict",), 0),
        ("warn", ("--strict",), 1),
        ("skipped", ("--strict",), 1),
        ("fail", ("--strict",), 1),
    ],
)
def test_the_certificate_decides(
    status: Status, options: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def certify_file(_: ExternalCheck, __: StepProgress) -> Certificate:
        return Certificate.of((Finding("settings.rope", status, "Found."),), {}, {}, {})

    monkeypatch.setattr(export, "certify_file", certify_file)
    (file := tmp_path / "bob.gguf").write_bytes(b"GGUF")
    out = tmp_path / "certificate.json"
    assert exit_code(str(file), "--reference", "base", "--out", str(out), *options) == code
    assert out.is_file()  # also of a file that failed


def test_a_wrong_input_is_no_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Certificate:
        raise InputError("no")

    monkeypatch.setattr(export, "certify_file", refuse)
    (file := tmp_path / "bob.gguf").write_bytes(b"GGUF")
    assert exit_code(str(file), "--reference", "base") == 2
    assert exit_code(str(tmp_path / "none.gguf"), "--reference", "base") == 2
    assert exit_code(str(file), "--reference", "base", "--verify", "deep") == 2
    assert exit_code(str(file)) == 2
