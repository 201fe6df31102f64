"""The merge of each kind of LoRA on each architecture equals PEFT's merge_and_unload, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.config_mutations import write_good_folders
from pipeline.errors import InputError
from pipeline.merge.meta_model import build_base
from pipeline.sources.model_source import base_source
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import assert_equals_peft, merger_for
from tests.pipeline.tiny import ARCHITECTURES, make_adapter, make_base

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "some layers": {"layers_to_transform": [1], "target_modules": ["o_proj", "down_proj"]},
    "dora": {"use_dora": True},
    "rslora + dora + patterns": {
        "use_rslora": True,
        "use_dora": True,
        "rank_pattern": {"o_proj": 2},
        "alpha_pattern": {"down_proj": 3},
    },
    "all biases": {"bias": "all"},
    "lora's biases": {"bias": "lora_only"},
    "norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "output": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_merged_tensors_equal_pefts_to_the_bit(
    architecture: str, kind: str, bases: Bases, tmp_path: Path
) -> None:
    base = bases(architecture)
    adapter = make_adapter(tmp_path / "adapter", base, **KINDS[kind])
    assert assert_equals_peft(base, adapter) > 0


def test_a_bias_of_the_update_is_merged_where_the_base_has_one(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(
        tmp_path / "adapter", bases("qwen2"), lora_bias=True, target_modules=["q_proj", "v_proj"]
    )
    assert assert_equals_peft(bases("qwen2"), adapter) == 8  # a weight and a bias each


def test_a_bias_of_the_update_is_refused_where_the_base_has_none(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(), lora_bias=True)
    with pytest.raises(
        InputError, match=r"q_proj \(lora_bias\).*neither PEFT nor this export.*lora_bias=False"
    ):
        merger_for(bases(), adapter)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["ln_f"]}, {"bias": "all"}])
def test_transposed_weights(options: dict[str, Any], bases: Bases, tmp_path: Path) -> None:
    base = bases("gpt2")
    adapter = make_adapter(
        tmp_path / "adapter", base, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, **options
    )
    assert assert_equals_peft(base, adapter) >= 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_base_is_merged_in_float32(dtype: torch.dtype, bases: Bases, tmp_path: Path) -> None:
    base = bases(dtype=dtype)
    assert_equals_peft(base, make_adapter(tmp_path / "adapter", base))


def test_a_base_whose_config_names_another_type(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.bfloat16, vocab_size=320)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert_equals_peft(base, make_adapter(tmp_path / "adapter", base))


def test_a_sharded_base(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="3MB")
    (base / "model.safetensors").unlink(missing_ok=True)
    assert len(list(base.glob("model-*.safetensors"))) > 1
    assert_equals_peft(base, make_adapter(tmp_path / "adapter", base))


def test_a_base_in_the_hubs_cache(bases: Bases, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for path in bases().iterdir():
        (snapshot / path.name).symlink_to(path)
    assert_equals_peft(snapshot, make_adapter(tmp_path / "adapter", bases()))


def test_the_demo_adapter_on_the_real_base(real_base: Path, demo_adapter: Path) -> None:
    assert assert_equals_peft(real_base, demo_adapter) == 210


REAL: dict[str, dict[str, Any]] = {
    "dora, rslora, patterns, norms": {**KINDS["rslora + dora + patterns"], "modules_to_save": ["norm"]},
    "the tied embeddings": {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj", "lm_head"]},
}


@pytest.mark.parametrize("kind", REAL)
def test_other_kinds_on_the_real_base(kind: str, real_base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", real_base, **REAL[kind])
    assert assert_equals_peft(real_base, adapter) > 30


OLD = ("peft_version", "lora_bias", "use_dora", "use_rslora", "exclude_modules", "trainable_token_indices")


def test_a_configuration_of_an_old_peft(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases())
    path = adapter / "adapter_config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in OLD}
    path.write_text(json.dumps({**config, "merge_weights": True, "enable_lora": None}))
    assert assert_equals_peft(bases(), adapter) == 14


def test_an_option_of_a_newer_peft_is_refused_by_name(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases())
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_tomorrow": True, "peft_version": "99.0.0"}))
    with pytest.raises(InputError, match=r"saved by PEFT 99\.0\.0 with the option use_tomorrow.*install"):
        merger_for(bases(), adapter)


@pytest.mark.parametrize(
    "wrong",
    [{"hidden_size": "x"}, {"num_attention_heads": None}, {"hidden_act": "\0"}, {"intermediate_size": 2**70}],
)
def test_a_configuration_that_is_malformed_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    write_good_folders(tmp_path)
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    with pytest.raises(
        InputError, match=r"config\.json describes no model that transformers can build \(\w+: "
    ):
        build_base(base_source(str(tmp_path / "base")), {})


def test_a_target_that_is_never_merged_is_named(bases: Bases, tmp_path: Path) -> None:
    merger = merger_for(bases(), make_adapter(tmp_path / "adapter", bases(), target_modules=["q_proj"]))
    merger.merge("model.layers.0.self_attn.q_proj.weight")
    with pytest.raises(InputError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight"):
        merger.finish()


def test_an_adapter_for_another_base_names_the_shapes(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(hidden_size=96, head_dim=24))
    with pytest.raises(
        InputError, match=r"another base: .*has the shape \[96, 4\], this base needs \[64, 4\]"
    ):
        merger_for(bases(), adapter)


def test_an_adapter_with_more_layers_than_the_base_is_refused(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(num_hidden_layers=3))
    with pytest.raises(InputError, match=r"layers\.2\..*would be lost"):
        merger_for(bases(), adapter)


def test_an_adapter_with_too_few_tensors_is_refused(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases())
    tensors = load_file(adapter / "adapter_model.safetensors")
    dropped = sorted(tensors)[0]
    del tensors[dropped]
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=f"lacks 1 tensor .*{dropped}"):
        merger_for(bases(), adapter)


def test_an_adapter_with_a_nan_is_refused_by_module(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(), target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "layers.0" in name and "lora_B" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    target = "model.layers.0.self_attn.q_proj.weight"
    merger = merger_for(bases(), adapter)
    with pytest.raises(InputError, match=target):
        merger.merge(target)


def test_target_modules_that_the_base_lacks(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(), target_modules=["q_proj", "v_proj"])
    with pytest.raises(InputError, match="does not fit the base model"):
        merger_for(bases("phi3"), adapter)
