"""One command from data to files to chat with, which goes on where it was interrupted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from pipeline.cli.tune import app
from pipeline.errors import InputError
from pipeline.training.config import FinetuneConfig
from pipeline.tuning import TuneConfig, tune
from tests.pipeline.convert.tiny_folders import FILES, base_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "tiny"
    folder.mkdir()
    for name, content in FILES.items():
        if name.startswith("base/"):
            (folder / name.removeprefix("base/")).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content + ('</s>' if m.role == 'assistant' else ' ') }}{% endfor %}"
    )
    save_file(base_tensors(), folder / "model.safetensors")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV as a student has it: one column with questions, one with answers."""
    path = tmp_path / "faq.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["Question", "Answer"])
        rows.writerows([f"What is {n}?", "Yes" if n % 2 else "No"] for n in range(24))
    return path


def config(base: Path, table: Path, out: Path, **options: Any) -> TuneConfig:
    training = FinetuneConfig(
        base=str(base),
        data=table,
        out=out,
        rank=2,
        steps=3,
        batch_size=4,
        precision="float32",
        device="cpu",
        held_out=0.25,
        chat_template="llama2",
        **options,
    )
    return TuneConfig(training, quants=("Q8_0",), verify="off", questions=1)


def test_a_table_becomes_a_certified_file(tiny_base: Path, table: Path, tmp_path: Path) -> None:
    wanted = config(tiny_base, table, tmp_path / "models" / "faq")
    result = tune(wanted)
    assert result.adapter == tmp_path / "models" / "faq-tuning" / "lora"
    assert [path.name for path in result.export.paths] == ["faq-Q8_0.gguf"]
    assert result.evaluation is not None
    assert [model.name for model in result.evaluation.models][2:] == ["faq-Q8_0.gguf"]
    assert result.evaluation.rows == 6
    record = json.loads((result.adapter / "training.json").read_text())
    assert (record["report"]["train_chats"], record["report"]["held_out_chats"]) == (18, 6)
    before = {path: path.stat().st_mtime_ns for path in result.adapter.iterdir()}

    again = tune(wanted)  # everything is there
    assert again.evaluation is None
    assert not again.export.made
    assert {path: path.stat().st_mtime_ns for path in result.adapter.iterdir()} == before
    with pytest.raises(InputError, match=r"faq-tuning was made with lr 0.0003 and not 0.001: .* --force"):
        tune(config(tiny_base, table, tmp_path / "models" / "faq", learning_rate=1e-3))


def test_a_step_that_failed_is_done_again(
    tiny_base: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(tiny_base, table, tmp_path / "faq", full=True)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.tuning.export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(wanted)
    state = json.loads((tmp_path / "faq-tuning" / "tune.json").read_text())
    assert state["done"] == ["split", "train"]
    trained = (tmp_path / "faq-tuning" / "model" / "model.safetensors").stat().st_mtime_ns
    result = tune(wanted)
    assert (result.adapter / "model.safetensors").stat().st_mtime_ns == trained
    assert result.export.paths[0].is_file()


def test_wrong_input_is_told_before_anything_is_written(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Question,Answer\nA?,B\nC?,D\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    words = ["--base", str(tiny_base), "--data", str(tmp_path / "t.csv"), "--out", str(tmp_path / "o" / "m")]
    for more, message in (
        (["--quant", "Q9"], "'Q9'"),
        (["--columns", "question=Q,answer=A"], "'Q'"),
        (["--base", str(tmp_path)], "has no model*.safetensors"),
        (["--out", str(tmp_path / "t.csv")], "t.csv' is a file: give a folder"),
        (["--out", str(tmp_path / "other")], "other' exists already: choose another, or give --force"),
        ([], "--held-out 0.1 of 2 rows is less than one row"),
        (["--held-out", "0.5", "--target", "attention"], "'attention' is no linear layer"),
    ):
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert sorted(path for path in tmp_path.rglob("*") if path.name != "o") == before
