from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.llama_server import LlamaServer
from bench.run_system import BARE
from bench.serve import ServeConfig
from bench.systems import Setup
from bench.workload import WORKLOADS, find_workload
from common.worker_process import run_worker
from pipeline.errors import InputError, PipelineError
from tests.bench import fake_llama_server


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An executable that stands for llama-server; what it was asked is in `asked.jsonl` beside it."""
    binary = tmp_path / "llama-server"
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_llama_server.__file__}" "$@"\n')
    binary.chmod(0o755)
    monkeypatch.setenv("FAKE_SERVER_LOG", str(tmp_path / "asked.jsonl"))
    return binary


def asked(fake: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (fake.parent / "asked.jsonl").read_text().splitlines()]


def test_all_contenders_run_and_the_ratios_are_printed(
    fake: Path, smollm2: Path, root: Path, python: str
) -> None:
    command = [python, "scripts/bench.py", "serve", "--model", smollm2, "--llama-server", fake, "--quick"]
    command += ["--users", "1", "--workload", "conversation", "--json"]
    command += ["--scratch", fake.parent / "scratch"]
    plain = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, env=plain)
    result = json.loads(done.stdout.splitlines()[-1])
    cell = result["figures"]["conversation"]["1"]
    assert set(cell) == {"ours", "ours, in this process", "llama-server", "lock"}
    assert {figures["tokens"] for figures in cell.values()} == {8}
    assert cell["ours"]["prompt_tokens"] == cell["lock"]["prompt_tokens"]
    assert cell["ours"]["cached_tokens"] > 0
    assert 0 < cell["ours, in this process"]["outside_decode"] < 1
    assert cell["ours"]["peak_bytes"] > 50e6
    ratios = result["ratios"]["conversation"]
    assert ratios["1"]["lock"]["later_ttft"] > 0
    assert set(ratios["1"]["single stream"]) == {"decode", "decode_at_depth"}
    assert asked(fake)[0]["spin"] is None  # the engine's own setting does not reach a peer


def test_llama_decode_alone_reads_each_prompt_once_and_writes_in_step(smollm2: Path, tmp_path: Path) -> None:
    request = {"contender": BARE, "model": str(smollm2), "users": 2, "context": 256, "threads": 2}
    request |= {"workload": "single", "quick": True, "llama_server": None, "spin": None}
    figures = run_worker("bench.run_system", request, tmp_path / "log")
    assert figures["tokens"] == 8
    assert 0 < figures["cached_tokens"] < figures["prompt_tokens"]  # the second prompt's beginning was copied
    assert figures["throughput"] > 0


def test_the_page_is_asked_as_a_browser_asks(smollm2: Path, tmp_path: Path, root: Path, python: str) -> None:
    command = [python, "scripts/bench.py", "page", "--model", smollm2, "--users", "2", "--quick", "--json"]
    command += ["--scratch", tmp_path, "--no-browser"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ratios"]["2"]["throughput"] > 0
    assert result["figures"]["page"]["2"]["peak_bytes"] > 50e6


def test_llama_server_is_started_and_read(fake: Path, smollm2: Path) -> None:
    server = LlamaServer(Setup(smollm2, slots=3, context=256, threads=2), fake, dict(os.environ))
    pieces: list[str] = []
    spent = server.answer([{"role": "user", "content": "Hello"}], 5, pieces.append)
    assert server.close() > 0
    assert pieces == ["word "] * 5
    assert dataclasses.astuple(spent) == (10, 3, 5)
    arguments, request = asked(fake)[0]["arguments"], asked(fake)[1]
    assert arguments[arguments.index("--ctx-size") + 1] == "768"
    assert request["path"] == "/v1/chat/completions"
    assert request["body"]["ignore_eos"] and request["body"]["temperature"] == 0


def test_an_error_in_the_stream_is_raised(fake: Path, smollm2: Path) -> None:
    server = LlamaServer(Setup(smollm2, slots=1, context=256, threads=2), fake, dict(os.environ))
    try:
        with pytest.raises(PipelineError, match="the context is full"):
            server.answer([{"role": "user", "content": "fail"}], 5, lambda text: None)
    finally:
        server.close()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path, smollm2: Path) -> None:
    binary = tmp_path / "llama-server"
    binary.write_text("#!/bin/sh\necho no such model >&2; exit 1\n")
    binary.chmod(0o755)
    with pytest.raises(PipelineError, match="does not start: no such model"):
        LlamaServer(Setup(smollm2, slots=1, context=256, threads=2), binary, dict(os.environ))


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=str)
def test_prompts_are_the_same_each_time_and_never_alike(workload: Any) -> None:
    questions = [workload.question(user, turn) for user in range(-1, 16) for turn in range(workload.turns)]
    assert len(set(questions)) == len(questions)
    again = find_workload(workload.name)
    assert again.question(3, 0) == workload.question(3, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workloads": ("double",)}, "double.*single, conversation"),
        ({"model": Path("none.gguf")}, r"none\.gguf is not a file"),
        ({"llama_server": Path("none")}, "make llama-server"),
        ({"users": (0,)}, "1 or more"),
        ({"repeat": 0}, "1 or more"),
    ],
)
def test_a_wrong_option_is_refused(change: dict[str, Any], words: str, smollm2: Path) -> None:
    with pytest.raises(InputError, match=words):
        dataclasses.replace(ServeConfig(smollm2, Path("scratch")), **change)
