"""LoRA merged by its formula, for bases without a class: equal to PEFT's layers where both are possible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.merge.checkpoint import Checkpoint, Tensors
from pipeline.merge.lora_merger import LoraMerger
from pipeline.merge.tensor_merger import TensorMerger
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import State, assert_equal, merger_for, ours
from tests.pipeline.tiny import ARCHITECTURES, make_adapter

PATTERNS = {
    "use_rslora": True,
    "rank_pattern": {"q_proj": 2, r"model\.layers\.1\..*down_proj": 8},
    "alpha_pattern": {"o_proj": 3, "0.self_attn.o_proj": 99, "layers.1.self_attn.o_proj": 98},
}


def by_formula(base: Path, *adapters: tuple[Path, float]) -> State:
    """Return all tensors, merged as for a base that has no class."""
    source = base_source(str(base))
    tensors: Tensors = Checkpoint(source.weight_files())
    for path, weight in adapters:
        tensors = LoraMerger(source, "none", tensors, read_adapter(adapter_source(str(path)), weight))
    assert isinstance(tensors, TensorMerger)
    return ours(tensors, base)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "starcoder2", "olmo2", "granite", "cohere"])
def test_equals_pefts_layers_to_the_bit(architecture: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(architecture, dtype=torch.bfloat16)
    first = make_adapter(tmp_path / "first", base)
    second = make_adapter(tmp_path / "second", base, 2, **PATTERNS)
    adapters = [(first, 1.0), (second, 0.3)]
    expected = ours(merger_for(base, *adapters), base)
    assert assert_equal(by_formula(base, *adapters), expected, base) >= 8


def test_an_output_matrix(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(), target_modules=["lm_head", "v_proj"])
    assert (
        assert_equal(
            by_formula(bases(), (adapter, 1.0)), ours(merger_for(bases(), adapter), bases()), bases()
        )
        == 3
    )
