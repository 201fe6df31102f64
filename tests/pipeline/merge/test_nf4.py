"""The base that a QLoRA adapter was trained on equals transformers' loading in 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint
from pipeline.merge.merger import merge_in_sequence
from pipeline.merge.nf4 import Nf4Base, multiply_exactly, round_model
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.sources.trained_base import Nf4Rounding
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import assert_equal, distance, logits, ours, pefts
from tests.pipeline.tiny import make_adapter


def in_four_bits(base: Path, dtype: Any = "auto", *, double_quant: bool = True) -> Any:
    """Load the base as QLoRA's recipes do, on the CPU."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        base, quantization_config=config, dtype=dtype, device_map={"": "cpu"}
    )


def rounded(base: Path, dtype: Any = "auto") -> Any:
    """Return a float32 model with the dequantized weights of the 4-bit model."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    count = 0
    for name, module in in_four_bits(base, dtype).named_modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
            target = model.get_submodule(name)
            target.weight.data = weight.T.contiguous() if isinstance(target, Conv1D) else weight
            count += 1
    assert count
    return model


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_adapter_is_merged_into_the_base_that_it_saw(
    architecture: str, dtype: torch.dtype, bases: Bases, tmp_path: Path
) -> None:
    base = bases(architecture, dtype=dtype)
    targets = ["c_attn"] if architecture == "gpt2" else ["o_proj", "down_proj"]
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=targets)
    merger = merge_in_sequence(
        base_source(str(base)), [read_adapter(adapter_source(str(adapter)))], rounding=Nf4Rounding()
    )
    expected = PeftModel.from_pretrained(rounded(base), str(adapter)).merge_and_unload()
    assert merger.changed > merger.targets  # linear weights that the adapter does not change are rounded too
    assert_equal(ours(merger, base), pefts(expected), base)


def test_the_rounded_base_answers_as_the_model_in_four_bits_does(bases: Bases) -> None:
    base = bases()
    seen = logits(in_four_bits(base))  # on some CPUs it multiplies in bfloat16
    assert distance(logits(rounded(base)), seen) < 0.01
    assert distance(logits(AutoModelForCausalLM.from_pretrained(base)), seen) > 0.05


def test_experts_are_refused(bases: Bases, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases("mixtral"), target_modules=["q_proj"])
    with pytest.raises(InputError, match=r"qlora-base nf4.*experts\.gate_up_proj"):
        merge_in_sequence(
            base_source(str(bases("mixtral"))),
            [read_adapter(adapter_source(str(adapter)))],
            rounding=Nf4Rounding(),
        )


def weights_in_four_bits(model: Any) -> dict[str, torch.Tensor]:
    """Return the dequantized linear weights of a 4-bit model, as its forward pass multiplies by them."""
    return {
        name: dequantize_4bit(module.weight.data, module.weight.quant_state)
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit)
    }


@pytest.mark.parametrize(
    ("stored", "loaded", "double_quant"),
    [
        (torch.float32, "float32", True),
        (torch.float32, "bfloat16", False),
        (torch.float32, "float16", True),
        (torch.bfloat16, "float32", True),
    ],
)
def test_all_tensors_equal_bitsandbytes_in_the_type_in_which_the_base_was_loaded(
    stored: torch.dtype, loaded: str, double_quant: bool, bases: Bases
) -> None:
    base, dtype = bases("llama", dtype=stored), getattr(torch, loaded)
    model = in_four_bits(base, dtype, double_quant=double_quant)
    source = base_source(str(base))
    ours = Nf4Base(source, Checkpoint(source.weight_files()), Nf4Rounding(loaded, double_quant))
    linear = weights_in_four_bits(model)
    assert len(linear) == 14
    for name, weight in linear.items():
        found = ours.read(f"{name}.weight")
        assert found.dtype == weight.dtype == dtype
        assert torch.equal(found, weight), name
    others = {
        name: value for name, value in model.named_parameters() if name.removesuffix(".weight") not in linear
    }
    for name, value in others.items():
        assert torch.equal(ours.read(name).float(), value.float()), name
    assert ours.changed >= {f"{name}.weight" for name in linear}
    assert (ours.changed >= set(others)) == (stored == torch.float32 and loaded != "float32")


def test_the_type_in_which_a_base_was_loaded_matters(bases: Bases) -> None:
    source = base_source(str(bases("llama", dtype=torch.float32)))
    name = "model.layers.0.mlp.down_proj.weight"
    weights = [
        Nf4Base(source, Checkpoint(source.weight_files()), Nf4Rounding(dtype)).read(name).float()
        for dtype in ("float32", "bfloat16", None)
    ]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_a_loaded_model_gets_the_weights_that_it_has_in_four_bits(bases: Bases) -> None:
    for architecture in ("llama", "gpt2", "phi3"):
        base = bases(architecture)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        round_model(model, base_source(str(base)), Nf4Rounding("bfloat16"))
        expected = rounded(base, torch.bfloat16)
        others = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        linear = {f"{name}.weight" for name in weights_in_four_bits(in_four_bits(base, torch.bfloat16))}
        for name, value in model.named_parameters():
            wanted = (expected if name in linear else others).get_parameter(name).float()
            assert torch.equal(value, wanted), (architecture, name)


def test_a_model_in_four_bits_multiplies_by_the_dequantized_weights_in_evaluation_and_after_it(
    bases: Bases,
) -> None:
    model = in_four_bits(bases(), torch.float32)
    multiply_exactly(model)
    for layer in filter(lambda module: isinstance(module, Linear4bit), model.modules()):
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        value = torch.randn(3, weight.shape[1], generator=torch.manual_seed(0))
        with torch.no_grad():
            assert torch.equal(layer.eval()(value), value @ weight.T)
        value.requires_grad_()
        layer.train()(value).sum().backward()
        assert torch.equal(value.grad, torch.ones(3, len(weight)) @ weight)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_layer_dequantizes_to_the_type_in_which_it_multiplies(compute: str, bases: Bases) -> None:
    base, dtype = bases("llama", dtype=torch.float32), getattr(torch, compute)
    model = in_four_bits(base, torch.bfloat16)
    multiply_exactly(model)
    layer = model.model.layers[0].mlp.down_proj.eval()
    with torch.no_grad():
        seen = layer(torch.eye(layer.in_features, dtype=dtype)).T
    source = base_source(str(base))
    ours = Nf4Base(source, Checkpoint(source.weight_files()), Nf4Rounding("bfloat16", compute_dtype=compute))
    assert torch.equal(ours.read("model.layers.0.mlp.down_proj.weight"), seen)
