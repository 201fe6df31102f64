"""The certificate as a step of an export: made once, reused while its inputs are equal, and the exit code."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from common.certificate import Certificate, Finding, load_certificate
from common.worker_process import WorkerDied, run_worker
from pipeline.certificate.runner.certify import NAMES, _crash_finding, certify
from pipeline.certificate.runner.registry import CHECKS
from pipeline.certificate.subject import Subject, strip_folders
from pipeline.errors import InputError
from pipeline.exporter.certify_step import EARLY, PREPARE
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.progress import NoProgress
from tests.pipeline.certificate.rewrite import rewrite
from tests.pipeline.chatml import CHATML
from tests.pipeline.tiny import make_base

pytestmark = pytest.mark.slow


def test_every_check_has_its_name() -> None:
    assert tuple(CHECKS) == (*NAMES, PREPARE)
    assert set(EARLY) < set(NAMES)


def test_a_certificate_comes_back_from_its_file(tmp_path: Path) -> None:
    good = Finding("a", "pass", "Good.", {"n": 1}, "One.", file="x.gguf")
    bad = Finding("b", "fail", "Bad.", cause="This.", file="y.gguf")
    shard = "y-00002-of-00002.gguf"
    made = Certificate.of((good, bad), {"x.gguf": "1", shard: "2"}, {"python": "3"}, {"depth": "fast"})
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(made.to_json()))
    assert load_certificate(path) == made
    assert made.status == "fail"
    assert {file.file: file.status for file in made.files} == {"x.gguf": "pass", shard: "fail"}
    path.write_text("{}")
    with pytest.raises(InputError, match="no certificate of this version"):
        load_certificate(path)


def test_it_is_made_once_and_again_when_something_changed(tmp_path: Path) -> None:
    base, out = make_base(tmp_path / "base"), tmp_path / "bob"
    (base / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    config = ExportConfig(
        str(base), out, quants=("Q8_0",), keep_f16=True, split_max_size="1M", verify="fast", threads=2
    )
    first = export(config)
    assert first.certificate is not None
    assert first.certificate.status in ("pass", "warn")
    assert len(first.certificate.hashes) > 3 and set(first.certificate.hashes) == set(first.made)
    # Findings name the whole model, not its shards, and the reference is not compared with itself.
    assert {finding.file for finding in first.certificate.findings} == {"", "bob-Q8_0.gguf"}
    path = tmp_path / "bob" / "certificate.json"
    assert list(json.loads(path.read_text())["files"][0]) == ["file", "status", "sha256"]
    assert (out / "report.html").is_file() and (out / "README.md").is_file()
    stamp = path.stat().st_mtime_ns
    assert export(config).certificate == first.certificate
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    again = export(config)
    assert (again.made, path.is_file()) == ((), True)
    assert export(replace(config, verify="off", quants=("Q8_0", "Q4_0"))).certificate is None
    assert not {"certificate.json", "report.html", "README.md"} & {file.name for file in out.iterdir()}


def test_a_file_that_does_not_load_fails_every_check_that_opens_it(real: Subject, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(real.full.read_bytes()[:100_000])
    certificate = certify(replace(real, full=broken), NoProgress())
    assert certificate.status == "fail"
    text = json.dumps(certificate.to_json())
    assert str(tmp_path) not in text and "broken.gguf" in text  # a certificate is published
    failed = {finding.name for finding in certificate.findings if finding.status == "fail"}
    assert failed == {"tokenizer", "template", "settings", "weights", "quality"}


def test_the_command_certifies_a_file_of_others(
    real: Subject, tmp_path: Path, root: Path, python: str
) -> None:
    assert real.base is not None
    broken = rewrite(real.full, tmp_path / "broken.gguf", {"llama.rope.freq_base": 10000.0})
    words = ["certify", broken, "--reference", real.reference, "--adapter", real.adapters[0].folder]
    words += ["--out", tmp_path / "certificate.json"]
    command = [python, "scripts/export_gguf.py", *map(str, words)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    failed = [one for one in load_findings(tmp_path / "certificate.json") if one.status == "fail"]
    assert [one.name for one in failed] == ["settings.rope"]
    assert "settings.rope, cause" in done.stdout


def load_findings(path: Path) -> tuple[Finding, ...]:
    found = load_certificate(path)
    assert found is not None
    return found.findings


@pytest.mark.parametrize("missing", ["no.gguf", "folder"])
def test_what_is_missing_is_one_line(missing: str, tmp_path: Path, root: Path, python: str) -> None:
    words = ["certify", str(tmp_path / "no.gguf"), "--reference", "models/captain-bob-lora"]
    words += ["--out", str(tmp_path / "folder" / "c.json")] if missing == "folder" else []
    done = subprocess.run(
        [python, "scripts/export_gguf.py", *words], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{missing} does not exist" in done.stderr.strip()
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_check_that_died_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "certificate.log"
    log.write_text(f"reading {tmp_path}/bob.gguf\nGGML_ASSERT failed\n")
    finding = _crash_finding("quality", WorkerDied("it failed: GGML_ASSERT failed", log))
    assert finding.summary == "The check came to no end: it failed: GGML_ASSERT failed."
    assert finding.figures == {"log": ["reading bob.gguf", "GGML_ASSERT failed"]}


def test_a_template_that_loops_is_named_when_it_ends_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looping = "from common.system import kill_after\nwith kill_after(0.01):\n    while True: pass\n"
    (tmp_path / "looping.py").write_text(looping)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(WorkerDied, match="chat template seems to loop"):
        run_worker("looping", {}, tmp_path / "looping.log")


def test_folders_are_left_out_of_what_is_told() -> None:
    known = [Path("/home/my name/models")]
    assert strip_folders("cannot load '/home/my name/models/a.gguf'", known) == "cannot load 'a.gguf'"
    assert strip_folders("/srv/bob/a.gguf is cut (5/7)") == "a.gguf is cut (5/7)"
    plain = "<s>[/INST] at https://a.org/b/c and/or 1/2/3"
    assert strip_folders(plain) == plain
