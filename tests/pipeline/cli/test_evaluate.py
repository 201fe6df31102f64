"""The command `evaluate`: its table, its line of JSON, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import evaluate as module
from pipeline.evaluation.config import EvaluateConfig, Evaluation
from tests.pipeline.evaluation.test_page import evaluation

ARGUMENTS = ["--base", "b", "--adapter", "a", "--adapter", "c=0.5", "--data", "d.jsonl"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[EvaluateConfig]:
    """Return the configurations that the command makes; two models of three are found to run."""
    seen: list[EvaluateConfig] = []

    def evaluate(config: EvaluateConfig, _: Any) -> Evaluation:
        seen.append(config)
        return evaluation(config.out)

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return seen


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        module.run([*ARGUMENTS, *arguments])
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_the_table_fits_a_terminal_and_json_is_the_last_line(
    asked: list[EvaluateConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", "report", "--json", "--questions", "3", "--field", "source") == 1
    shown = capsys.readouterr()
    *lines, last = shown.out.splitlines()
    assert max(map(len, lines)) <= 80
    tuned = next(line.split() for line in lines if line.split()[:1] == ["tuned"])
    assert tuned[1:] == ["0.625", "(0.53-0.72)", "1.87", "0.500", "100%", "(61%-100%)"]
    assert json.loads(last)["models"][1]["loss"] == 0.625
    assert "x-Q4_0.gguf does not run: llama.cpp <died>" in shown.err
    [config] = asked
    assert (config.adapters, config.questions) == (("a", "c=0.5"), 3)
    assert config.data_options.field == "source"


def test_questions_may_be_a_file(asked: list[EvaluateConfig]) -> None:
    run("--out", "report", "--questions", "q.txt", "--gguf", "x.gguf", "--gguf", "folder")
    assert asked[0].questions == Path("q.txt")
    assert asked[0].gguf == (Path("x.gguf"), Path("folder"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", " "], "--out is empty"),
        (["--out", "r", "--questions", "-2"], "--questions -2 is no number of rows"),
        (["--out", "r", "--model", "m"], "--adapter and --model are both the tuned model"),
        (["--out", "r", "--text", "a", "--columns", "question=q,answer=a"], "--columns makes chats"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, asked: list[EvaluateConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert asked == []
