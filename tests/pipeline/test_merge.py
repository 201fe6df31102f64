from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.adapter import read_adapter
from pipeline.errors import InputError
from pipeline.merge import Merger
from pipeline.source import adapter_source, base_source
from tests.pipeline.tiny import ARCHITECTURES, make_adapter, make_base, merged_by_peft

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "some layers": {"layers_to_transform": [1], "target_modules": ["o_proj", "down_proj"]},
    "dora": {"use_dora": True},
}


def merger_for(base: Path, adapter: Path) -> Merger:
    return Merger(base_source(str(base)), read_adapter(adapter_source(str(adapter))))


def assert_equals_peft(base: Path, adapter: Path) -> int:
    """Merge every target alone and compare it with PEFT's merge of the whole model, to the bit."""
    merger = merger_for(base, adapter)
    expected = merged_by_peft(base, adapter).state_dict()
    weights = {
        name: tensor for file in base.glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    changed = 0
    for name in sorted(merger.targets):
        merged = merger.merge(name, weights[name])
        assert merged.dtype == torch.float32
        assert torch.equal(merged, expected[name]), name
        changed += not torch.equal(merged, weights[name].float())
    merger.finish()
    untouched = {name for name in expected if name in weights} - merger.targets
    assert all(torch.equal(expected[name], weights[name].float()) for name in untouched)
    assert changed == len(merger.targets)
    return changed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_merged_tensors_equal_pefts_to_the_bit(architecture: str, kind: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", architecture)
    adapter = make_adapter(tmp_path / "adapter", base, **KINDS[kind])
    assert assert_equals_peft(base, adapter) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_base_is_merged_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=dtype)
    assert_equals_peft(base, make_adapter(tmp_path / "adapter", base))


def test_a_sharded_base(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="3MB")
    (base / "model.safetensors").unlink(missing_ok=True)
    assert len(list(base.glob("model-*.safetensors"))) > 1
    assert_equals_peft(base, make_adapter(tmp_path / "adapter", base))


def test_the_demo_adapter_on_the_real_base(real_base: Path, demo_adapter: Path) -> None:
    assert assert_equals_peft(real_base, demo_adapter) == 210


def test_a_target_that_is_never_merged_is_named(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    merger = merger_for(base, make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"]))
    merger.merge("model.layers.0.self_attn.q_proj.weight", torch.zeros(64, 64))
    with pytest.raises(InputError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight"):
        merger.finish()


def test_an_adapter_for_another_base_names_the_shapes(tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden_size=96, head_dim=24)
    adapter = make_adapter(tmp_path / "adapter", other)
    with pytest.raises(
        InputError, match=r"another base: .*has the shape \[96, 4\], this base needs \[64, 4\]"
    ):
        merger_for(make_base(tmp_path / "base"), adapter)


def test_an_adapter_with_more_layers_than_the_base_is_refused(tmp_path: Path) -> None:
    deeper = make_base(tmp_path / "deeper", num_hidden_layers=3)
    adapter = make_adapter(tmp_path / "adapter", deeper)
    with pytest.raises(InputError, match=r"layers\.2\..*would be lost"):
        merger_for(make_base(tmp_path / "base"), adapter)


def test_an_adapter_with_too_few_tensors_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    tensors = load_file(adapter / "adapter_model.safetensors")
    dropped = sorted(tensors)[0]
    del tensors[dropped]
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=f"lacks 1 tensors.*{dropped}"):
        merger_for(base, adapter)


def test_an_adapter_with_a_nan_is_refused_by_module(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "layers.0" in name and "lora_B" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    target = "model.layers.0.self_attn.q_proj.weight"
    merger = merger_for(base, adapter)
    with pytest.raises(InputError, match=target):
        merger.merge(target, torch.zeros(64, 64))


def test_target_modules_that_the_base_lacks(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "phi3")
    llama = make_base(tmp_path / "llama")
    adapter = make_adapter(tmp_path / "adapter", llama, target_modules=["q_proj", "v_proj"])
    with pytest.raises(InputError, match="does not fit the base model"):
        merger_for(base, adapter)
