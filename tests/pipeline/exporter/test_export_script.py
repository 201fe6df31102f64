"""scripts/export_gguf.py as a user runs it: exit codes, and one clear line per mistake."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.cli.console import RESUME_HINT, report_errors
from pipeline.errors import PipelineError
from tests.pipeline.tiny import make_adapter, make_base

pytestmark = pytest.mark.slow


def run(root: Path, python: str, *words: object, **extra: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [python, "scripts/export_gguf.py", *map(str, words)]
    environment = {**os.environ, "COLUMNS": "200", **extra}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)


def test_json_is_the_last_line(tmp_path: Path, root: Path, python: str) -> None:
    base = make_base(tmp_path / "base")
    words = ("--base", base, "--adapter", make_adapter(tmp_path / "adapter", base), "--out", tmp_path / "bob")
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "bob-F16.gguf").write_text("of another export: nothing may be held against it")
    done = run(root, python, *words, "--quant", "Q8_0", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert [file["file"] for file in summary["files"]] == ["bob-Q8_0.gguf"]
    assert "bob-Q8_0.gguf" in done.stdout
    assert re.search(r"^\d+ checks passed", done.stdout, re.MULTILINE)
    assert f"next: python scripts/chat.py {tmp_path / 'bob'} --raw --prompt TEXT\n" in done.stdout
    assert summary["certificate"] in ("pass", "warn")
    assert (tmp_path / "bob" / "certificate.json").is_file()


def test_help_reads_well_and_is_quick(root: Path, python: str) -> None:
    done = run(root, python, "--help")
    assert done.returncode == 0
    for option in ("--base", "--adapter", "--quant", "--keep-f16", "--no-resume", "--json"):
        assert option in done.stdout


MISTAKES = {
    "missing base": (["--base", "no/such/folder"], "no/such/folder"),
    "hub id": (["--base", "nobody/nothing"], "nobody/nothing"),
    "missing adapter": (["--adapter", "/nowhere"], "/nowhere"),
    "unknown type": (["--quant", "Q4_K_X"], "Q4_K_X"),
    "unknown outtype": (["--outtype", "f8"], "f8"),
    "unknown type of a tensor": (["--tensor-type", "*attn_v=Q6"], "did you mean Q6_K"),
    "unknown type of the output": (["--output-type", "Q6"], "--output-type 'Q6'"),
    "unknown depth": (["--verify", "deep"], "--verify 'deep'"),
    "no such chats": (["--eval", "no/chats.jsonl"], "no/chats.jsonl does not exist"),
    "no threads": (["--threads", "0"], "--threads 0"),
    "revision of a folder": (["--revision", "main"], "revision"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2(
    mistake: str, tmp_path: Path, root: Path, python: str
) -> None:
    change, says = MISTAKES[mistake]
    words = ["--out", tmp_path / "out" / "bob", *change]
    if "--base" not in change:
        words += ["--base", make_base(tmp_path / "base")]
    done = run(root, python, *words)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_wrong_adapter_gets_one_line_after_the_progress(tmp_path: Path, root: Path, python: str) -> None:
    base = make_base(tmp_path / "base")
    other = make_base(tmp_path / "other", hidden_size=96, head_dim=24)
    words = (
        "--base",
        base,
        "--adapter",
        make_adapter(tmp_path / "adapter", other),
        "--out",
        tmp_path / "out" / "bob",
    )
    done = run(root, python, *words)
    assert done.returncode == 2
    assert "another base" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_package_names_the_command_that_installs_it(
    tmp_path: Path, root: Path, python: str
) -> None:
    (tmp_path / "peft.py").write_text("raise ImportError('No module named peft', name='peft')\n")
    base = make_base(tmp_path / "base")
    words = ("--base", base, "--adapter", make_adapter(tmp_path / "adapter", base), "--out", tmp_path / "bob")
    done = run(root, python, *words, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install -r requirements-pipeline.txt" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("after", "says"), [((), "to begin anew"), ((RESUME_HINT,), "to go on from")])
def test_an_interrupt_says_what_to_do_then(
    after: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, report_errors(*after):
        raise KeyboardInterrupt
    assert ended.value.code == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GGUF_CHAT_AUTH", "GGUF_CHAT_API_KEY"]
)
def test_an_error_quotes_no_secret(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "s3cret")
    with pytest.raises(SystemExit), report_errors():
        raise PipelineError("refused: s3cret")
    assert capsys.readouterr().err == "error: refused: ***\n"


def test_the_token_is_never_shown(tmp_path: Path, root: Path, python: str) -> None:
    done = run(root, python, "--base", "/x/hf_secret", "--out", tmp_path / "bob", HF_TOKEN="hf_secret")
    assert done.returncode == 2
    assert "hf_secret" not in done.stderr + done.stdout
