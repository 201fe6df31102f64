"""Folders that are given for a base or an adapter and are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import InputError
from pipeline.sources.adapter import parse_adapter
from pipeline.sources.model_source import adapter_source, base_source


def write(folder: Path, weights: str, config: dict[str, Any] | None = None) -> Path:
    """Write a folder with one tensor in the file `weights`, and a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"a.weight": np.zeros((2, 2), np.float32)}, folder / weights)
    (folder / "config.json").write_text(json.dumps(config or {"architectures": ["LlamaForCausalLM"]}))
    return folder


def test_a_trainers_folder_names_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (90, 100, 1000):
        write(tmp_path / f"checkpoint-{step}", "adapter_model.safetensors")
        write(tmp_path / f"checkpoint-{step}", "model.safetensors")
    (tmp_path / "checkpoint-2000").mkdir()  # its weights are not there yet
    wanted = rf"trainer's folder of 3 checkpoints, .* such as the newest, {tmp_path}/checkpoint-1000$"
    with pytest.raises(InputError, match=wanted):
        adapter_source(str(tmp_path))
    with pytest.raises(InputError, match=wanted):
        base_source(str(tmp_path))


def test_checkpoints_in_parts_are_named_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "zero_to_fp32.py").touch()
    with pytest.raises(InputError, match=r"DeepSpeed's ZeRO, in parts: .*zero_to_fp32\.py \S+ OUT --safe"):
        base_source(str(tmp_path / "zero"))
    (tmp_path / "fsdp" / "pytorch_model_fsdp_0").mkdir(parents=True)
    (tmp_path / "fsdp" / "pytorch_model_fsdp_0" / "__0_0.distcp").touch()
    with pytest.raises(InputError, match=r"FSDP, in parts: .*accelerate merge-weights \S+fsdp_0 OUT`"):
        base_source(str(tmp_path / "fsdp"))


@pytest.mark.parametrize(
    ("config", "file"),
    [
        ({"lora_parameters": {"rank": 8}, "model": "you/base"}, "adapters.safetensors"),
        ({"lora_parameters": {"rank": 8}, "model": "you/base"}, "README.md"),
        ({}, "adapters.safetensors"),
    ],
)
def test_an_adapter_of_mlx_is_fused_first(tmp_path: Path, config: dict[str, Any], file: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / file).touch()
    base = config.get("model", "BASE")
    with pytest.raises(
        InputError, match=rf"is MLX's .*`mlx_lm.fuse --model {base} --adapter-path .* --base$"
    ):
        adapter_source(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "files", "wanted"),
    [
        ({"architectures": ["BertModel"], "model_type": "bert"}, [], "an encoder (embedding) model"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, [], "an encoder or a classifier"),
        ({"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta"}, [], "an encoder (embedding)"),
        ({"architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert"}, [], "an encoder"),
        ({"architectures": ["NomicBertModel"], "model_type": "nomic_bert"}, [], "an encoder"),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            [],
            "an encoder-decoder",
        ),
        ({"architectures": ["BartModel"], "is_encoder_decoder": True}, [], "an encoder-decoder"),
        ({"architectures": ["LlamaForSequenceClassification"]}, [], "an encoder or a classifier"),
        ({"architectures": ["Qwen3ForCausalLM"]}, ["modules.json", "1_Pooling/config.json"], "an embedding"),
    ],
)
def test_a_base_that_writes_no_text_is_told(
    tmp_path: Path, config: dict[str, Any], files: list[str], wanted: str
) -> None:
    with pytest.raises(InputError) as refused:
        base_source(str(_with(tmp_path, config, files)))
    assert wanted in str(refused.value)
    assert f"of the architecture {config['architectures'][0]}, with which nobody can chat" in str(
        refused.value
    )


def _with(tmp_path: Path, config: dict[str, Any], files: list[str]) -> Path:
    folder = write(tmp_path / "base", "model.safetensors", config)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["Gemma3ForConditionalGeneration"], "is_encoder_decoder": False},
        {"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True},
        {"architectures": ["LlamaModel"], "model_type": "llama"},
    ],
)
def test_a_decoder_is_a_base(tmp_path: Path, config: dict[str, Any]) -> None:
    assert base_source(str(write(tmp_path / "base", "model.safetensors", config))).folder == tmp_path / "base"


def test_an_existing_folder_is_no_adapter_with_a_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora=0.5").mkdir()
    assert parse_adapter("lora=0.5") == ("lora=0.5", 1.0)
    assert parse_adapter("other=0.5") == ("other", 0.5)
