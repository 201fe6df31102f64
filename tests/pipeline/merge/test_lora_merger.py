"""LoRA merged by its formula, for bases without a class: equal to PEFT's layers where both are possible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint, Tensors
from pipeline.merge.lora_merger import LoraMerger
from pipeline.merge.merger import merge_in_sequence
from pipeline.merge.model_class import missing_class
from pipeline.merge.tensor_merger import TensorMerger
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import WEIGHTS, adapter_source, base_source
from pipeline.training.finetune import FinetuneConfig, finetune
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


def without_class(base: Path, folder: Path, **changed: Any) -> Path:
    """Copy a base, with a model_type that transformers does not know and its class as code beside it."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    named = {"model_type": "nemotron-nas", "architectures": ["DeciLMForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps({**config, **named, **changed}))
    (folder / "own.py").write_text("raise SystemExit('code of the repository was run')")
    return folder


def test_a_base_without_a_class_is_merged_so(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(), **PATTERNS)
    base = without_class(bases(), tmp_path / "base")
    merger = merger_for(base, adapter)
    assert isinstance(merger, LoraMerger)
    assert merger.settings == {}
    assert_equal(ours(merger, base), ours(merger_for(bases(), adapter), bases()), base)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "DoRA rescales every row"),
    "bias": ({"bias": "lora_only"}, r"it trained biases \(bias='lora_only'\)"),
    "whole modules": ({"modules_to_save": ["norm"]}, "it brings whole modules"),
    "tokens": ({"trainable_token_indices": [5]}, "it brings embeddings of its own"),
    "embeddings": (
        {"target_modules": ["embed_tokens"]},
        r"it has .*embed_tokens\.lora_embedding_A",
    ),
    "parameters": (
        {"target_modules": [], "target_parameters": ["q_proj.weight"]},
        "it changes bare parameters",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_refused_by_name(kind: str, bases: Bases, tmp_path: Path) -> None:
    options, reason = OTHERS[kind]
    adapter = make_adapter(tmp_path / "adapter", bases(), **options)
    base = without_class(bases(), tmp_path / "base")
    with pytest.raises(
        InputError, match=rf"'.*adapter' cannot be merged .*{reason}.*no class for nemotron-nas"
    ):
        merger_for(base, adapter)


def edited(adapter: Path, tensors: State | None = None, **config: Any) -> None:
    """Change an adapter's configuration, and replace its tensors if others are given."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    if tensors is not None:
        save_file(tensors, adapter / WEIGHTS)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def test_what_does_not_fit_is_refused_by_name(bases: Bases, tmp_path: Path) -> None:
    base = without_class(bases(), tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", bases(), target_modules=["q_proj", "v_proj"])
    good = load_file(adapter / WEIGHTS)
    unknown = {name.replace("layers.0.self_attn.q_proj", "layers.0.query"): good[name] for name in good}
    norm = {name.replace("self_attn.q_proj", "input_layernorm"): good[name] for name in good}
    half = {name: value for name, value in good.items() if name != f"{Q}B.weight"}
    fewer = {name: value for name, value in good.items() if not name.startswith(Q)}
    narrow = {**good, f"{Q}A.weight": good[f"{Q}A.weight"][:, :32].contiguous()}
    cases: list[tuple[State, dict[str, Any], str]] = [
        (unknown, {}, r"changes model\.layers\.0\.query\.weight, which the checkpoint of .* does not have"),
        (norm, {}, r"input_layernorm\.weight of the shape \[64\], which is no linear layer"),
        (half, {}, r"lacks base_model.*q_proj\.lora_B\.weight"),
        (fewer, {}, r"lacks a LoRA of model\.layers\.0\.self_attn\.q_proj, which its configuration names"),
        (
            narrow,
            {},
            r"q_proj\.lora_A\.weight of the shape \[4, 32\], and this base with rank 4 needs \[4, 64\]",
        ),
        (good, {"r": 8}, r"of the shape \[4, 64\], and this base with rank 8 needs \[8, 64\]"),
        (good, {"fan_in_fan_out": True}, "its base keeps weights transposed"),
        (good, {"peft_type": "OFT"}, "OFT is no LoRA"),
        ({**good, f"{Q}A.weight": good[f"{Q}A.weight"] * torch.nan}, {}, "infinite or not a number"),
    ]
    before = (adapter / "adapter_config.json").read_text()
    for tensors, config, message in cases:
        (adapter / "adapter_config.json").write_text(before)
        edited(adapter, tensors, **config)
        with pytest.raises(InputError, match=message):
            ours(merger_for(base, adapter), base)


BASES: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"quant_method": "gptq"}}, "is quantized, and a merge needs full precision"),
    ({"architectures": ["JAISLMHeadModel"], "model_type": "jais"}, "keeps weights transposed"),
]


@pytest.mark.parametrize(("config", "message"), BASES)
def test_bases_of_another_layout_are_refused(
    config: dict[str, Any], message: str, bases: Bases, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases())
    with pytest.raises(InputError, match=message):
        merger_for(without_class(bases(), tmp_path / "base", **config), adapter)


def test_what_needs_a_class_says_so(bases: Bases, tmp_path: Path) -> None:
    base = without_class(bases(), tmp_path / "base")
    adapter = read_adapter(adapter_source(str(make_adapter(tmp_path / "adapter", bases()))))
    source = base_source(str(base))
    missing = r"no model class for the base model .*\(nemotron-nas\), and "
    with pytest.raises(InputError, match=missing + "--qlora-base nf4 needs one"):
        merge_in_sequence(source, [adapter], "nf4")
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "Who?", "completion": "Bob."}\n' * 4)
    config = FinetuneConfig(base=str(base), data=data, out=tmp_path / "out", held_out=0)
    with pytest.raises(InputError, match=missing + "training needs one; code .* is never run here"):
        finetune(config)
    assert not (tmp_path / "out").exists()


def test_whether_transformers_has_a_class(bases: Bases, tmp_path: Path) -> None:
    llama = {"architectures": ["LlamaForCausalLM"]}
    cases = [
        ({}, "nemotron-nas"),
        ({"auto_map": None}, "nemotron-nas"),
        (llama, "nemotron-nas"),  # code of its own under transformers' name
        ({**llama, "auto_map": None}, None),  # a mistake in config.json
        ({"model_type": "llama"}, None),
        ({"model_type": None}, None),
        ({"model_type": "t5"}, "t5"),
    ]
    for number, (config, expected) in enumerate(cases):
        base = base_source(str(without_class(bases(), tmp_path / str(number))))
        path = base.folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        assert missing_class(base) == expected, config
