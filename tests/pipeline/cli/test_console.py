"""What an export prints at its end: one line for what passed, the rest in full, and the next command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGUFWriter

from common.certificate import Certificate, Finding, Status
from pipeline.cli import console
from pipeline.cli.console import go_on_command, show_export
from pipeline.exporter.run import ExportResult
from pipeline.manifest import Output

FILE = "bob-Q4_K_M.gguf"


def finding(name: str, status: Status, file: str = "") -> Finding:
    summary = f"{name} was {status}"
    return Finding(name, status, summary, {}, threshold=f"{name} limit", cause=f"{name} cause", file=file)


def write(path: Path, *, template: bool = True, kind: str = "model", architecture: str = "llama") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_type(kind)
    if template:
        writer.add_chat_template("{{ messages }}")
    import numpy as np

    writer.add_tensor("token_embd.weight", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    write(tmp_path / "my bob" / FILE)
    (tmp_path / "my bob" / "report.html").touch()
    return tmp_path / "my bob"


def result_of(folder: Path, *findings: Finding) -> ExportResult:
    certificate = Certificate.of(findings, {FILE: "ab"}, {}, {}) if findings else None
    output = Output(FILE, "Q4_K_M", 100, 4.5, 1.0, "ab", 0)
    return ExportResult(folder, (output,), (FILE,), folder / "manifest.json", (), certificate)


def printed(result: ExportResult, capsys: pytest.CaptureFixture[str], **options: bool) -> str:
    show_export(result, as_json=options.pop("as_json", False), **options)
    return capsys.readouterr().out


def test_checks_that_all_passed_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed = [finding(f"check{number}", "pass") for number in range(14)]
    out = printed(result_of(folder, *passed, finding("survival", "pass", FILE)), capsys)
    *_, counted, taken, kept, following = out.splitlines()
    assert counted == f"15 checks passed (all of them: {folder / 'report.html'})"
    assert taken == f"take {FILE}: the smallest file that passed every check"
    assert kept == "survival was pass"
    assert following == f"next: python app.py '{folder}'"
    assert "check3" not in out and "certificate" not in out


def test_only_what_did_not_pass_is_listed_with_its_cause(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [finding("one", "pass"), finding("two", "skipped"), finding("three", "warn", FILE)]
    out = printed(result_of(folder, *found), capsys)
    assert "1 check passed, 1 with a warning, 1 not made" in out
    assert (
        "three was warn" in out and "three, wanted: three limit" in out and "three, cause: three cause" in out
    )
    assert "two was skipped" in out and "two cause" not in out
    assert "one was pass" not in out
    assert out.splitlines()[-1].startswith("next: python app.py")


def test_a_file_that_failed_is_not_offered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "report.html").unlink()
    out = printed(result_of(folder, finding("one", "pass"), finding("two", "fail", FILE)), capsys)
    assert "1 check passed, 1 failed\n" in out and "two, cause: two cause" in out
    assert "do not use them" in out and "next:" not in out


def test_json_stays_the_last_line_and_tune_says_itself_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(result_of(folder, finding("one", "pass")), capsys, as_json=True).splitlines()
    assert json.loads(lines[-1])["certificate"] == "pass" and lines[-2].startswith("next: ")
    assert "next:" not in printed(result_of(folder), capsys, next_command=False)
    assert "next: python app.py" in printed(result_of(folder), capsys)  # --verify off


def test_the_next_command_fits_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write(tmp_path / "plain" / "a.gguf", template=False)
    lora = write(tmp_path / "lora" / "a.gguf", kind="adapter")
    embedding = write(tmp_path / "bert" / "a.gguf", architecture="bert")
    chat = write(tmp_path / "chat" / "a.gguf")
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.touch()
    assert go_on_command(chat.parent, chat) == f"python app.py {chat.parent}"
    assert go_on_command(plain.parent, plain) == f"python scripts/chat.py {plain.parent} --raw --prompt TEXT"
    assert go_on_command(lora.parent, lora) == f"python app.py BASE.gguf::{lora}"
    assert go_on_command(embedding.parent, embedding) is None
    assert go_on_command(tmp_path, checkpoint) is None
    monkeypatch.setattr(console.sys, "argv", ["/usr/bin/gguf-chat", "export"])
    assert go_on_command(chat.parent, chat) == f"gguf-chat serve {chat.parent}"
    assert go_on_command(plain.parent, plain) == f"gguf-chat chat {plain.parent} --raw --prompt TEXT"
