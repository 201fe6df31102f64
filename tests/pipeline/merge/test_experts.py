"""Mixtures of experts: one parameter for all experts in the model, one tensor each in the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import assert_equals_peft, merger_for
from tests.pipeline.tiny import MIXTURES, make_adapter

ATTENTION = ["q_proj", "o_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "dora": {"use_dora": True},
    "experts": {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    "experts alone": {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]},
    "rslora, patterns": {
        "use_rslora": True,
        "target_parameters": ["mlp.experts.gate_up_proj"],
        "alpha_pattern": {"experts.gate_up_proj": 3},
    },
    "router": {"target_parameters": ["mlp.gate.weight"]},
    "some layers": {"layers_to_transform": [1]},
    "norms and output": {"modules_to_save": ["norm", "lm_head"]},
}


@pytest.mark.parametrize("architecture", MIXTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_merged_experts_equal_pefts_to_the_bit(
    architecture: str, kind: str, bases: Bases, tmp_path: Path
) -> None:
    base = bases(architecture)
    adapter = make_adapter(tmp_path / "adapter", base, **{"target_modules": ATTENTION, **KINDS[kind]})
    assert assert_equals_peft(base, adapter) > 0


def test_an_expert_is_read_with_its_siblings_alone(bases: Bases, tmp_path: Path) -> None:
    options = {"target_modules": ATTENTION, **KINDS["experts"]}
    merger = merger_for(bases("mixtral"), make_adapter(tmp_path / "adapter", bases("mixtral"), **options))
    one = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    assert merger.merge(one).shape == merger.shapes[one]
    assert len(merger._ready) == 2 * 4 - 1  # w1 and w3 of four experts, and no w2


def test_an_adapter_from_when_experts_were_layers(bases: Bases, tmp_path: Path) -> None:
    """Write an adapter as for transformers 4, with a Linear per expert, which PEFT converts."""
    base = bases("mixtral")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=ATTENTION)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    torch.manual_seed(2)
    for layer in range(2):
        for expert in range(4):
            for name, width, height in (("w1", 64, 128), ("w2", 128, 64), ("w3", 64, 128)):
                prefix = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{prefix}.lora_A.weight"] = 0.1 * torch.randn(4, width)
                tensors[f"{prefix}.lora_B.weight"] = 0.1 * torch.randn(height, 4)
    save_file(tensors, path)
    config = adapter / "adapter_config.json"
    text = config.read_text().replace('"q_proj"', '"q_proj", "w1", "w2", "w3"')
    config.write_text(text)
    assert assert_equals_peft(base, adapter) == 4 + 2 * 4 * 3
