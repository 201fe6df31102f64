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
from pipeline.merge.merger import merge_in_sequence
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import assert_equal, distance, logits, ours, pefts
from tests.pipeline.tiny import make_adapter


def in_four_bits(base: Path) -> Any:
    """Load the base as QLoRA's recipes do, on the CPU."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        base, quantization_config=config, dtype="auto", device_map={"": "cpu"}
    )


def rounded(base: Path) -> Any:
    """Return a float32 model with the dequantized weights of the 4-bit model."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    count = 0
    for name, module in in_four_bits(base).named_modules():
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
        base_source(str(base)), [read_adapter(adapter_source(str(adapter)))], qlora_base="nf4"
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
            base_source(str(bases("mixtral"))), [read_adapter(adapter_source(str(adapter)))], qlora_base="nf4"
        )
