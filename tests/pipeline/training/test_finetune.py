"""Fine-tuning of a tiny random model: trained tokens, saved files, rejected inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from common.chat_templates import expand_name
from common.errors import MissingPackage
from pipeline.data.dataset import encode_chat, read_chats, split_chats
from pipeline.errors import InputError
from pipeline.evaluation.token_losses import mean_loss, row_losses
from pipeline.progress import Advance
from pipeline.sources.model_source import base_source
from pipeline.training.base_model import load_tokenizer
from pipeline.training.finetune import RECORD, FinetuneConfig, FinetuneReport, finetune

pytestmark = pytest.mark.slow


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["report"]
    return report


def test_the_loss_falls_and_the_file_holds_what_was_measured(config: FinetuneConfig, base: Path) -> None:
    folder = finetune(config)
    report = report_of(folder)
    assert report["steps"] == 15
    assert report["train_loss"] < report["train_loss_before"] - 0.3
    assert report["held_out_loss"] < report["held_out_loss_before"] - 0.3

    tokenizer = load_tokenizer(base_source(str(base)))
    held = split_chats(read_chats(config.data), config.held_out, config.seed)[1]
    examples = [encode_chat(tokenizer, chat, config.max_length) for chat in held]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert mean_loss(row_losses(model, examples, 2)) == pytest.approx(
        report["held_out_loss_before"], abs=1e-4
    )
    tuned = PeftModel.from_pretrained(model, str(folder))
    assert mean_loss(row_losses(tuned, examples, 2)) == pytest.approx(report["held_out_loss"], abs=1e-4)
    assert report["evaluation"]["tuned"]["loss"] == pytest.approx(report["held_out_loss"], abs=1e-4)
    assert report["evaluation"]["paired"]["better"] == len(held)


def test_what_is_saved(config: FinetuneConfig, base: Path) -> None:
    folder = finetune(replace(config, steps=2))
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "evaluation.html",
        "loss.svg",
        "metrics.jsonl",
        "recipe.yaml",
        RECORD,
    ]
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * 2  # A and B of seven layers in two blocks; no head, no embedding
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in tensors)
    saved = json.loads((folder / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["r"], saved["lora_alpha"]) == ("LORA", 4, 8)
    assert saved["base_model_name_or_path"] == "tiny-llama"
    assert saved["target_modules"] == sorted(saved["target_modules"])
    assert not (saved["use_dora"] or saved["use_rslora"] or saved["modules_to_save"])
    for path in (*folder.glob("*.json"), folder / "README.md"):
        assert str(base.parent) not in path.read_text(), f"{path.name} names a path of this machine"
    options = json.loads((folder / RECORD).read_text())["options"]
    assert (options["seed"], options["learning_rate"], options["data"]) == (42, 2e-2, "chats.jsonl")


def test_a_base_without_a_template_is_trained_with_one_that_is_given(
    config: FinetuneConfig, base: Path, tmp_path: Path
) -> None:
    own = finetune(replace(config, steps=1, out=tmp_path / "own"))
    plain = shutil.copytree(base, tmp_path / "plain", ignore=shutil.ignore_patterns("*.jinja"))
    given = finetune(replace(config, base=str(plain), steps=1, chat_template="chatml"))
    weights = "adapter_model.safetensors"
    assert (given / weights).read_bytes() == (own / weights).read_bytes(), "the same prompts"
    assert (given / "chat_template.jinja").read_text() == expand_name("chatml")
    options = json.loads((given / RECORD).read_text())["options"]
    assert options["chat_template"] == "llama.cpp's built-in 'chatml'"


def test_the_same_seed_gives_the_same_adapter(config: FinetuneConfig) -> None:
    def bytes_of(seed: int, name: str) -> bytes:
        out = finetune(replace(config, steps=3, seed=seed, out=config.out.with_name(name)))
        return (out / "adapter_model.safetensors").read_bytes()

    first = bytes_of(1, "a")
    assert bytes_of(1, "b") == first
    assert bytes_of(2, "c") != first


def test_only_the_named_targets_are_trained(config: FinetuneConfig) -> None:
    folder = finetune(replace(config, steps=1, targets=("q_proj", "down_proj"), base_name="me/base"))
    names = load_file(folder / "adapter_model.safetensors")
    assert len(names) == 2 * 2 * 2
    assert all("q_proj" in name or "down_proj" in name for name in names)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/base"


def test_what_stands_at_out_is_replaced_only_when_asked(config: FinetuneConfig) -> None:
    finetune(replace(config, steps=1))
    with pytest.raises(InputError, match="exists already: choose another, or give --force"):
        finetune(config)
    assert "- training: steps 1, batch size 4" in (config.out / "README.md").read_text()
    finetune(replace(config, steps=2, force=True))
    assert report_of(config.out)["steps"] == 2
    assert "- training: steps 2, batch size 4" in (config.out / "README.md").read_text()
    (config.out / "README.md").write_text("mine")
    finetune(replace(config, steps=1, force=True))
    assert (config.out / "README.md").read_text() == "mine"

    (config.out / "notes.txt").write_text("mine too")
    with pytest.raises(InputError, match=r"has 'notes.txt', which no training made and --force would remove"):
        finetune(replace(config, force=True))
    (config.out / "notes.txt").unlink()
    (config.out / "adapter_config.json").unlink()
    with pytest.raises(InputError, match="is no adapter folder"):
        finetune(replace(config, force=True))
    assert (config.out / RECORD).is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "--rank 0"),
        ({"alpha": 0}, "--alpha 0"),
        ({"dropout": 1.0}, "--dropout"),
        ({"learning_rate": float("nan")}, "--lr nan"),
        ({"schedule": "sine"}, "--schedule 'sine'"),
        ({"schedule": "plateau", "warmup": 0.1}, "--schedule plateau has no warm-up: leave --warmup out"),
        ({"precision": "int4"}, "--precision 'int4'"),
        ({"epochs": 0}, "--epochs 0"),
        ({"steps": 0}, "--steps 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"max_length": 3}, "--max-length 3"),
        ({"held_out": 1.0}, "--held-out 1.0"),
        ({"seed": -1}, "--seed -1"),
        ({"targets": ()}, "--target"),
    ],
)
def test_options_out_of_range_are_named(config: FinetuneConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(config, **change)


def test_wrong_input_is_told_before_anything_is_loaded(
    config: FinetuneConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in base.iterdir():
        if path.name != "chat_template.jinja":
            (plain / path.name).write_bytes(path.read_bytes())
    (silent := tmp_path / "silent.jinja").write_text(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"data": tmp_path / "none.jsonl"}, "does not exist"),
        ({"base": str(tmp_path / "none")}, "there is no such folder"),
        ({"base": str(plain)}, "has no chat template: give one with --template FILE"),
        ({"chat_template": "lama3"}, "--template 'lama3' is neither .* llama3,"),
        (
            {"chat_template": str(silent)},
            "line 1, message 2: what the assistant says does not reach",
        ),
        ({"targets": ("q_proj", "qq_proj")}, "'qq_proj' is no linear layer of the base: use .*q_proj"),
        ({"targets": ("lm_head",)}, "'lm_head' is no linear layer"),
        ({"max_length": 16}, "--max-length 16 cuts off every answer"),
        ({"out": config.data / "adapter"}, "cannot be written"),
    ]
    for change, message in wrong:
        with pytest.raises(InputError, match=message):
            finetune(replace(config, **change))
    assert not config.out.parent.exists()


def test_missing_packages_are_told(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(MissingPackage, match="'peft' is not installed: run `pip install"):
        finetune(config)


def test_the_script_trains_and_sums_up_in_json(config: FinetuneConfig, tmp_path: Path) -> None:
    from pipeline.cli.finetune import app

    late = [{"role": "user", "content": "Hm? " * 100}, {"role": "assistant", "content": "Aye."}]
    data = tmp_path / "late.jsonl"  # with an answer that begins after the cut
    data.write_text(config.data.read_text() + json.dumps({"messages": late}) + "\n")
    words = ["--base", config.base, "--data", str(data), "--out", str(config.out), "--steps", "2"]
    result = CliRunner().invoke(app, [*words, "--rank", "2", "--max-length", "256", "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["steps"] == 2
    assert summary["dropped_chats"] == 1
    assert summary["adapter"] == str(config.out)
    assert json.loads((config.out / "adapter_config.json").read_text())["lora_alpha"] == 4  # twice the rank


@pytest.mark.parametrize(
    ("dropped", "message"), [(0, ""), (1, "1 chat was left out"), (3, "3 chats were left out")]
)
def test_chats_that_were_left_out_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dropped: int, message: str
) -> None:
    from pipeline.cli.finetune import print_summary

    names = [field.name for field in fields(FinetuneReport)]
    report = {**dict.fromkeys(names, 0), "held_out_loss": None, "best_step": None, "dropped_chats": dropped}
    report["steps"] = 50
    (tmp_path / RECORD).write_text(json.dumps({"report": report}))
    print_summary(tmp_path, json_summary=False)
    assert (message or "Loss on trained chats") in capsys.readouterr().out.splitlines()[-1]


def test_few_steps_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli.finetune import print_summary

    names = [field.name for field in fields(FinetuneReport)]
    report = {**dict.fromkeys(names, 0), "held_out_loss": None, "best_step": None, "steps": 49}
    (tmp_path / RECORD).write_text(json.dumps({"report": report}))
    print_summary(tmp_path, json_summary=False)
    assert "note: 49 steps are few: with little data, --epochs 10" in capsys.readouterr().out


def test_the_script_says_wrong_input_in_one_line(root: Path, python: str, tmp_path: Path) -> None:
    words = [
        python,
        "scripts/finetune.py",
        "--base",
        "x",
        "--data",
        str(tmp_path / "no"),
        "--out",
        str(tmp_path / "a"),
    ]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the data set {tmp_path / 'no'} does not exist: give a file (JSONL, JSON, CSV, Parquet), "
        "a folder, or a name on the Hub (owner/name)\n"
    )


@pytest.mark.parametrize("script", ["finetune", "make_base"])
def test_help_loads_nothing_heavy(root: Path, python: str, script: str) -> None:
    heavy = {"torch", "transformers", "trl", "peft"}
    code = f"import sys, scripts.{script}; print({heavy} & set(sys.modules))"
    done = subprocess.run([python, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_answers_before_and_after_stand_side_by_side(config: FinetuneConfig) -> None:
    folder = finetune(replace(config, held_out=0.3, answers=2, steps=4, learning_rate=5e-3))
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("Question ") >= 2
    assert "Aye, " in page, "the wanted answer"
    assert "4 held-out rows, base tiny-llama" in page
    assert str(config.base) not in page
    folder = finetune(replace(config, held_out=0.0, steps=1, out=config.out.with_name("none")))
    assert not (folder / "evaluation.html").exists()


def test_many_rows_are_tokenized_with_progress(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int]] = []

    class Shown:
        @contextmanager
        def step(self, title: str, total: int | None) -> Iterator[Advance]:
            yield lambda done, note="": shown.append((title, done))

    monkeypatch.setattr("pipeline.training.finetune._MANY_ROWS", 13)
    finetune(replace(config, steps=1), Shown())
    assert [done for title, done in shown if title == "Tokenize"] == list(range(1, 14))
