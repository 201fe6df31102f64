"""finetune --for: an ordinary training, then a recovery for the quantized file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from pipeline.cli.finetune import print_summary
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.manifest import RECOVERY
from pipeline.sources.trained_for import read_trained_for
from pipeline.training import for_quant
from pipeline.training.config import FinetuneConfig
from pipeline.training.finetune import finetune
from pipeline.training.recovery_job import Recovery, RecoveryJob
from tests.pipeline.recovering import write_folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("for-quant")
    write_folders(folder)
    return folder


def config(folders: Path, out: Path, **options: Any) -> FinetuneConfig:
    defaults: dict[str, Any] = {
        "rank": 4,
        "learning_rate": 5e-3,
        "steps": 24,
        "batch_size": 4,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "answers": 0,
        "for_quant": "Q4_0",
    }
    data = folders / "chats.jsonl"
    return FinetuneConfig(base=str(folders / "base"), data=data, out=out, **{**defaults, **options})


@pytest.fixture(scope="module")
def trained(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(config(folders, tmp_path_factory.mktemp("trained") / "bob"))


def test_adapter_is_for_the_file(trained: Path, folders: Path, tmp_path: Path) -> None:
    record = read_trained_for(trained)
    assert record is not None
    assert record.quant == "Q4_0"
    assert record.recovery["after"] < record.recovery["before"]
    assert (trained / "before" / "training.json").is_file()
    assert "for: Q4_0" in (trained / "recipe.yaml").read_text()
    result = export(
        ExportConfig(str(folders / "base"), tmp_path / "bob", (str(trained),), ("Q4_0",), verify="off")
    )
    options = json.loads(result.manifest.read_text())["options"]
    assert (options[RECOVERY]["Q4_0"]["tensors"], options[RECOVERY]["Q4_0"]["differ"]) == (16, 0)
    assert sorted(path.name for path in trained.parent.iterdir()) == ["bob"]


def test_summary_says_what_it_gained(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(trained, json_summary=False)
    assert "Q4_0 was recovered on 43 chats in" in " ".join(capsys.readouterr().out.split())


def test_adapter_before_is_that_of_an_ordinary_training(trained: Path, folders: Path, tmp_path: Path) -> None:
    plain = finetune(config(folders, tmp_path / "bob", for_quant=None))
    before = load_file(trained / "before" / "adapter_model.safetensors")
    same = load_file(plain / "adapter_model.safetensors")
    assert all((before[name] == same[name]).all() for name in same)


def test_goes_on_after_the_first_training(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = config(folders, tmp_path / "bob", steps=2)

    def interrupt(*_: Any) -> Recovery:
        raise KeyboardInterrupt

    monkeypatch.setattr(for_quant, "recover", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune(wanted)
    with pytest.raises(InputError, match="unfinished training with other options"):
        finetune(replace(wanted, steps=3))

    def gains_nothing(job: RecoveryJob, _: Any) -> Recovery:
        assert job.full.is_file()
        return Recovery(1.0, 1.0, None, None, 0, 8, 40, 4, own_answers=False, labels=False, seconds=1.0)

    monkeypatch.setattr(for_quant, "recover", gains_nothing)
    finetune(wanted)
    print_summary(tmp_path / "bob", json_summary=False)
    assert "training for Q4_0 gained nothing beyond chance" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "bob" / "training.json").is_file()
    assert read_trained_for(tmp_path / "bob") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bob"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"full": True}, "--for trains a plain LoRA for the file, and takes no --full"),
        ({"dora": True}, "takes no --dora"),
        ({"held_out": 0.0}, "--for needs held-out chats"),
        ({"for_quant": "Q4"}, "--for 'Q4' is unknown"),
        ({"for_quant": "IQ2_XS"}, "--for IQ2_XS needs an importance matrix"),
        ({"for_quant": None, "for_labels": True}, "--for-labels goes with --for"),
        ({"for_quant": None, "calibrate": Path("x.jsonl")}, "--calibrate is for the file of --for"),
    ],
)
def test_wrong_options(folders: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(folders, tmp_path / "bob", **options)
