"""PEFT's other kinds of adapters: merged bit for bit as by PEFT, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType
from transformers import AutoModelForCausalLM

from pipeline.errors import InputError
from pipeline.sources.adapter import MERGED, reject_unmergeable
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import assert_equals_peft, merger_for
from tests.pipeline.tiny import save_adapter

OPTIONS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 16},
    "GRALORA": {"r": 8, "gralora_k": 2},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "OFT": {"oft_block_size": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [1, 5]},
    "VBLORA": {"vector_length": 16, "num_vectors": 16, "topk": 2},
}


def adapter_of(kind: str, base: Path, folder: Path, **options: Any) -> Path:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = {"target_modules": ["q_proj", "o_proj"], **OPTIONS.get(kind, {}), **options}
    return save_adapter(folder, get_peft_model(model, PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**config)))


@pytest.mark.parametrize("kind", MERGED)
def test_a_kind_is_merged_to_the_bit(kind: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(num_key_value_heads=4, attention_bias=True)
    adapter = adapter_of(kind, base, tmp_path / "adapter")
    assert assert_equals_peft(base, adapter) == (
        1 if kind == "TRAINABLE_TOKENS" else 2 if "LN" in kind else 4
    )


@pytest.mark.parametrize("kind", ["VERA", "RANDLORA", "LOHA"])
def test_whole_modules_beside_another_kind(kind: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(num_key_value_heads=4, attention_bias=True)
    adapter = adapter_of(kind, base, tmp_path / "adapter", modules_to_save=["lm_head", "norm"])
    assert assert_equals_peft(base, adapter) == 4 + 1 + 5  # every norm's name ends in norm


def test_projections_that_are_not_in_the_file_are_missed(bases: Bases, tmp_path: Path) -> None:
    base = bases(num_key_value_heads=4)
    adapter = adapter_of("VERA", base, tmp_path / "adapter", save_projection=False)
    with pytest.raises(InputError, match=r"VeRA\) keeps a part of it out of its file.*merge_and_unload"):
        merger_for(base, adapter)


@pytest.mark.parametrize("kind", [kind.value for kind in PeftType if kind.value not in MERGED])
def test_a_kind_that_is_not_merged_is_refused_by_name(kind: str) -> None:
    with pytest.raises(
        InputError, match=rf"'me/mine' is of PEFT's kind {kind} \(.*: (train|merge it with PEFT)"
    ):
        reject_unmergeable("me/mine", {"peft_type": kind})


def test_what_no_merge_can_hold_is_not_sent_to_pefts_merge() -> None:
    for kind in ("PROMPT_TUNING", "XLORA"):
        with pytest.raises(InputError, match="train a LoRA instead"):
            reject_unmergeable("me/mine", {"peft_type": kind})


REFUSED: dict[str, dict[str, Any]] = {
    "layer_replication": {"layer_replication": [[0, 2]]},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5]},
    "arrow_config": {"arrow_config": {"top_k": 1}},
    "use_qalora": {"use_qalora": True},
    "pissa": {"init_lora_weights": "pissa_niter_4"},
    "loftq": {"init_lora_weights": "loftq"},
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_cannot_be_merged_is_refused_by_name(option: str) -> None:
    with pytest.raises(InputError, match=rf"'me/mine'.*{option}.*(merge_and_unload|path_initial_model)"):
        reject_unmergeable("me/mine", {"peft_type": "LORA", **REFUSED[option]})


def test_every_option_of_lora_that_is_refused_exists() -> None:
    from pipeline.sources.adapter import _OPTIONS

    assert set(_OPTIONS) <= set(LoraConfig.__dataclass_fields__)
