"""An interrupted training goes on from its last whole checkpoint, to the same adapter."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from pipeline.errors import InputError
from pipeline.progress import Advance
from pipeline.training import device, run
from pipeline.training.checkpoints import Checkpoints, RunState
from pipeline.training.config import FinetuneConfig
from pipeline.training.finetune import RECORD, finetune
from pipeline.training.recipe import identity_of
from tests.pipeline.chatml import byte_tokenizer

WEIGHTS = "adapter_model.safetensors"
pytestmark = pytest.mark.slow


class StopAt:
    """A progress display that raises Ctrl-C at a step of the training."""

    def __init__(self, step: int) -> None:
        self._step = step

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        def advance(done: int, note: str = "") -> None:
            if title == "Training" and done == self._step:
                raise KeyboardInterrupt

        yield advance


def work_folder(config: FinetuneConfig) -> Path:
    return config.out.with_name(f".{config.out.name}.training")


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.2, "accumulate": 2, "batch_size": 2, "save_every": 2},  # dropout: the dice are restored
        {"schedule": "cosine-restarts", "cycles": 2, "neftune": 5.0, "save_every": 4, "packing": True},
        {"schedule": "plateau", "eval_every": 2, "early_stopping": 9, "save_every": 3},
        {"full": True, "save_every": 4, "learning_rate": 1e-3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_result_is_that_of_an_uninterrupted_training(
    config: FinetuneConfig, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = replace(config, steps=9, **options)
    whole = finetune(replace(config, out=tmp_path / "whole" / "adapter"))
    for step in (7, 8):
        with pytest.raises(KeyboardInterrupt):
            finetune(config, StopAt(step))
        assert not config.out.exists()
    resumed = finetune(config)
    weights = "model.safetensors" if config.full else WEIGHTS
    assert (resumed / weights).read_bytes() == (whole / weights).read_bytes()
    assert metrics(resumed) == metrics(whole)
    assert list(config.out.parent.iterdir()) == [config.out]


def test_a_killed_training_goes_on(config: FinetuneConfig, root: Path, tmp_path: Path) -> None:
    config = replace(config, steps=40, save_every=5)
    whole = finetune(replace(config, out=tmp_path / "whole" / "adapter"))
    words = [sys.executable, "scripts/finetune.py", "--base", config.base, "--data", str(config.data)]
    words += ["--out", str(config.out), "--steps", "40", "--batch-size", "4", "--rank", "4", "--lr", "0.02"]
    words += ["--precision", "float32", "--device", "cpu", "--save-every", "5"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, cwd=root, stderr=log) as process:
        while not list(work_folder(config).glob("checkpoint-*/complete.json")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        time.sleep(random.Random(time.time_ns()).uniform(0, 0.5))  # any moment must do
        process.kill()
    assert not config.out.exists()
    assert subprocess.run(words, cwd=root, check=True, capture_output=True).returncode == 0
    assert (config.out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert metrics(config.out) == metrics(whole)


def test_other_options_are_refused_by_name_and_begin_anew_when_asked(config: FinetuneConfig) -> None:
    config = replace(config, steps=4, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, StopAt(3))
    changed = replace(config, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"checkpoint-2 of .* \(lr 0.02, now 0.001\): .* or --no-resume"):
        finetune(changed)
    assert (work_folder(config) / "checkpoint-2" / "complete.json").exists(), "nothing is lost"
    folder = finetune(replace(changed, resume=False))
    assert json.loads((folder / RECORD).read_text())["options"]["learning_rate"] == 1e-3


def test_a_checkpoint_that_is_half_written_is_not_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "adapter")
    state = checkpoints.open({"lr": 1}, resume=True)
    assert state == RunState()
    for step in (2, 4):
        checkpoints.path(step).mkdir()
        (checkpoints.path(step) / "weights").write_text(str(step))
        checkpoints.add_metrics({"step": step, "loss": 1.0})
    checkpoints.seal(RunState(step=2, seconds=1.5))
    checkpoints.path(4).mkdir()
    again = Checkpoints(tmp_path / "adapter")
    assert again.open({"lr": 1}, resume=True) == RunState(step=2, seconds=1.5)
    assert not checkpoints.path(4).exists()
    assert [line["step"] for line in again.metrics()] == [2]


def test_the_precision_of_the_earlier_run_is_kept(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_faster_precision", lambda _device: "float32")
    auto = replace(config, precision="auto")
    checkpoints = Checkpoints(config.out)
    checkpoints.open({"precision": "bfloat16", "device": "cpu"}, resume=True)
    assert device.settled(auto).precision == "float32", "there is nothing to go on from"
    checkpoints.path(1).mkdir()
    checkpoints.seal(RunState(step=1))
    assert device.settled(auto).precision == "bfloat16"
    assert device.settled(replace(auto, resume=False)).precision == "float32"
    assert device.settled(config).precision == "float32", "what was given wins"


def test_a_kill_after_the_last_step_adds_none(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, steps=3, schedule="constant", save_every=3, held_out=0.3, answers=2)
    whole = finetune(replace(config, out=tmp_path / "whole"))
    measure = run.measure

    def killed(*arguments: Any) -> Any:
        if arguments[-1] == "Measure after":
            raise KeyboardInterrupt
        return measure(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "measure", killed)
        finetune(config)
    folder = finetune(replace(config, answers=1))  # fewer answers than the base gave
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert json.loads((folder / RECORD).read_text())["report"]["steps"] == 3


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts, whose published checkpoint names each expert's weights."""
    folder = tmp_path_factory.mktemp("experts") / "tiny-moe"
    torch.manual_seed(0)
    settings = Qwen3MoeConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=2,
        num_experts_per_tok=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_a_whole_mixture_of_experts_goes_on_and_keeps_its_best_weights(
    config: FinetuneConfig, experts: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"full": True, "rank": 8, "alpha": 16, "learning_rate": 5e-2, "steps": 6}
    config = replace(
        config, base=str(experts), schedule="constant", early_stopping=9, eval_every=1, **options
    )
    whole = finetune(replace(config, out=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        finetune(replace(config, save_every=2), StopAt(5))
    folder = finetune(config)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    report = json.loads((folder / RECORD).read_text())["report"]
    best = min(line["held_out_loss"] for line in metrics(folder) if "held_out_loss" in line)
    assert report["held_out_loss"] == pytest.approx(best, abs=1e-4)


def test_without_resume_the_next_run_goes_on(config: FinetuneConfig) -> None:
    assert identity_of(replace(config, resume=False)) == identity_of(config)


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "adapter")
    checkpoints.open({}, resume=True)
    for step in (1, 2, 3):
        checkpoints.path(step).mkdir()
        checkpoints.seal(RunState(step=step, best_step=1))
    assert sorted(path.name for path in checkpoints.folder.glob("checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-3",
    ]
