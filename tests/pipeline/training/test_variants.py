"""What can be trained besides a plain LoRA on one CPU: all weights, 4 bits, going on, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from pipeline.errors import InputError
from pipeline.progress import Advance
from pipeline.sources.trained_base import trained_rounding
from pipeline.training.config import FinetuneConfig
from pipeline.training.finetune import RECORD, finetune
from tests.pipeline.chatml import CHATML
from tests.pipeline.training.test_resume import metrics

pytestmark = pytest.mark.slow
WEIGHTS = "adapter_model.safetensors"


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return found


def test_all_weights_are_trained_into_a_model_that_stands_alone(config: FinetuneConfig, base: Path) -> None:
    folder = finetune(replace(config, full=True, learning_rate=2e-3, steps=6))
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {tensor.dtype for tensor in before.values()}
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        assert (folder / name).is_file()
    report = record(folder)["report"]
    assert report["train_loss"] < report["train_loss_before"] - 0.3
    assert report["trained_parameters"] == sum(tensor.numel() for tensor in before.values())
    assert "All weights of `tiny-llama`" in (folder / "README.md").read_text()


def test_a_model_in_bfloat16_stays_in_it(config: FinetuneConfig, base: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    for path in base.glob("*"):
        if "tokenizer" in path.name or path.suffix == ".jinja":
            (half / path.name).write_bytes(path.read_bytes())
    folder = finetune(replace(config, base=str(half), full=True, steps=2, precision="bfloat16"))
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


def test_the_record_of_a_rounded_base_is_one_that_the_export_reads(config: FinetuneConfig) -> None:
    from pipeline.sources.adapter import read_adapter
    from pipeline.sources.model_source import adapter_source

    folder = finetune(replace(config, qlora="nf4", steps=2))
    rounding = trained_rounding(None, [read_adapter(adapter_source(str(folder)))])
    assert rounding is not None
    assert (rounding.dtype, rounding.compute_dtype, rounding.double_quant) == ("float32", "float32", True)
    assert "A QLoRA adapter" in (folder / "README.md").read_text()


def test_training_goes_on_from_an_adapter(config: FinetuneConfig, tmp_path: Path) -> None:
    first = finetune(replace(config, steps=4, dora=True, out=tmp_path / "first"))
    pattern = r".*\.(q|k|v|o|gate|up|down)_proj"  # of another program
    settings = json.loads((first / "adapter_config.json").read_text())
    (first / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": pattern}))
    (first / "chat_template.jinja").write_text(CHATML)
    folder = finetune(replace(config, steps=4, adapter=str(first), rank=8, alpha=16))
    assert record(folder)["report"]["train_loss_before"] == record(first)["report"]["train_loss"]
    assert record(folder)["options"]["rank"] == 4
    assert record(folder)["options"]["dora"]
    saved = json.loads((folder / "adapter_config.json").read_text())
    assert (saved["r"], saved["use_dora"], saved["target_modules"]) == (4, True, pattern)
    assert (folder / "chat_template.jinja").read_text() == CHATML, "its own template goes on with it"
    assert load_file(folder / WEIGHTS).keys() == load_file(first / WEIGHTS).keys()


def test_a_base_that_names_no_head_is_refused(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "get_output_embeddings", lambda _model: None)
    with pytest.raises(InputError, match=r"\(LlamaForCausalLM\) names no output embeddings"):
        finetune(config)


def test_an_adapter_of_another_base_is_refused(config: FinetuneConfig, tmp_path: Path) -> None:
    first = finetune(replace(config, steps=1, out=tmp_path / "first"))
    state = load_file(first / WEIGHTS)
    name = next(name for name in state if name.endswith("q_proj.lora_A.weight"))
    save_file({**state, name: torch.zeros(4, 32)}, first / WEIGHTS)
    with pytest.raises(InputError, match="was made for another base"):
        finetune(replace(config, adapter=str(first), rank=8, alpha=16))
    assert not config.out.exists()


def test_options_of_the_shape_do_not_go_with_an_adapter_to_go_on_from(config: FinetuneConfig) -> None:
    with pytest.raises(InputError, match="--adapter brings its own shape and takes no --rank"):
        replace(config, adapter="x", rank=16, alpha=16)


def test_early_stopping_keeps_the_best_weights(config: FinetuneConfig, base: Path) -> None:
    overfit = replace(
        config, steps=60, learning_rate=0.08, schedule="constant", eval_every=2, early_stopping=3, warmup=0
    )
    folder = finetune(overfit)
    report = record(folder)["report"]
    losses = {line["step"]: line["held_out_loss"] for line in metrics(folder) if "held_out_loss" in line}
    assert report["best_step"] == min(losses, key=losses.__getitem__)
    assert report["steps"] == report["best_step"] + 6 < 60
    assert report["held_out_loss"] == pytest.approx(min(losses.values()), abs=2e-3)  # the file's is float16
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    assert model.peft_config["default"].r == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"early_stopping": 2, "held_out": 0.0}, "--early-stopping needs a held-out loss"),
        ({"schedule": "plateau", "held_out": 0.0}, "--schedule plateau needs a held-out loss"),
        ({"cycles": 3}, "--cycles goes with --schedule cosine-restarts"),
        ({"full": True, "dora": True}, "--full trains all weights and takes no --dora"),
        ({"qlora": "int4"}, "--qlora 'int4' is out of range: use nf4"),
        ({"optimizer": "sgd"}, "--optimizer 'sgd'"),
        ({"trackers": ("mlflow",)}, "--track 'mlflow'"),
    ],
)
def test_options_that_contradict_are_named(
    config: FinetuneConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(config, **change)


def test_a_machine_without_what_is_asked_for_is_told(config: FinetuneConfig) -> None:
    for change, message in (
        ({"device": "mps"}, "--device mps is not on this machine: use cpu, or auto"),
        ({"precision": "float16"}, "--precision float16 is for GPUs"),
        ({"optimizer": "paged-adamw-8bit"}, "does not run on cpu: use adamw or adamw-8bit"),
        ({"trackers": ("wandb",)}, "--track wandb needs a package of that name: run `pip install wandb`"),
    ):
        with pytest.raises(InputError, match=message):
            finetune(replace(config, **change))
    assert not config.out.parent.exists()


def test_a_loss_that_is_no_number_is_told_with_its_step(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.training import trainer

    steps = iter(range(1, 99))
    monkeypatch.setattr(
        trainer.Trainer,
        "training_step",
        lambda *_: torch.tensor(float("nan") if next(steps) == 3 else 1.0, requires_grad=True),
    )
    with pytest.raises(InputError, match=r"at step 3 \(the loss is no number\): try a lower --lr than"):
        finetune(config)
    assert not config.out.exists()


class FullDisk:
    """A progress display in whose training the disk becomes full."""

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        def advance(done: int, note: str = "") -> None:
            if title == "Training" and done == 3:
                raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

        yield advance


def test_a_full_disk_is_told_and_the_training_goes_on_later(
    config: FinetuneConfig,
) -> None:
    config = replace(config, steps=5, save_every=2)
    with pytest.raises(InputError, match="is full: make room, and run the same command again to go on from"):
        finetune(config, FullDisk())
    assert record(finetune(config))["report"]["steps"] == 5


def test_two_processes_equal_gradient_accumulation(
    config: FinetuneConfig, root: Path, tmp_path: Path
) -> None:
    config = replace(config, steps=4, batch_size=2, rank=8, alpha=16)
    alone = finetune(replace(config, accumulate=2, out=tmp_path / "alone"))
    words = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    words += ["scripts/finetune.py", "--base", config.base, "--data", str(config.data), "--steps", "4"]
    words += ["--batch-size", "2", "--lr", "0.02", "--precision", "float32", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *words, "--out", str(config.out)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, wanted = metrics(config.out), metrics(alone)
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in wanted], abs=1e-4)
    assert [line["tokens"] for line in found] == [line["tokens"] for line in wanted]
    assert "4 steps on 12 chats" in done.stdout
    assert done.stdout.count("Loss on trained chats") == 1
