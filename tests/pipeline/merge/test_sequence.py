"""Several adapters, merged one after the other, each with its weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from pipeline.errors import InputError
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import assert_equal, merger_for, ours, pefts, scale_by
from tests.pipeline.tiny import make_adapter, resized, save_adapter


def merged_in_turn(base: Path, *adapters: tuple[Path, float]) -> Any:
    """Scale and merge the adapters with PEFT, one after the other."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for path, weight in adapters:
        wrapped = PeftModel.from_pretrained(model, str(path))
        scale_by(wrapped, weight)
        model = wrapped.merge_and_unload()
    return model


SECOND: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "elsewhere": {"target_modules": ["gate_proj"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("kind", SECOND)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 1.0), (0.5, -1.3)])
def test_a_sequence_equals_pefts(
    kind: str, weights: tuple[float, float], bases: Bases, tmp_path: Path
) -> None:
    first = make_adapter(tmp_path / "first", bases(), target_modules=["q_proj", "o_proj"])
    second = make_adapter(tmp_path / "second", bases(), seed=2, **SECOND[kind])
    pair = ((first, weights[0]), (second, weights[1]))
    assert_equal(ours(merger_for(bases(), *pair), bases()), pefts(merged_in_turn(bases(), *pair)), bases())


def test_the_order_matters_where_an_update_depends_on_the_weight(bases: Bases, tmp_path: Path) -> None:
    lora = make_adapter(tmp_path / "lora", bases(), target_modules=["q_proj"])
    dora = make_adapter(tmp_path / "dora", bases(), target_modules=["q_proj"], use_dora=True)
    name = "model.layers.0.self_attn.q_proj.weight"
    one, other = merger_for(bases(), lora, dora), merger_for(bases(), dora, lora)
    assert not torch.equal(one.merge(name), other.merge(name))


def test_another_kind_after_experts(bases: Bases, tmp_path: Path) -> None:
    base = bases("mixtral")
    experts = make_adapter(
        tmp_path / "experts", base, target_modules=["q_proj"], target_parameters=["experts.down_proj"]
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    loha = save_adapter(tmp_path / "loha", get_peft_model(model, LoHaConfig(target_modules=["q_proj"])))
    pair = ((experts, 1.0), (loha, 0.25))
    assert_equal(ours(merger_for(base, *pair), base), pefts(merged_in_turn(base, *pair)), base)


def test_an_adapter_after_one_that_resized_and_untied(bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=True)
    first = resized(base, tmp_path / "first", 330, modules_to_save=["embed_tokens"])
    second = make_adapter(tmp_path / "second", base, target_modules=["v_proj"])
    merger = merger_for(base, first, second)
    assert merger.settings == {"vocab_size": 330, "tie_word_embeddings": False}
    assert merger.added == {"lm_head.weight"}
    merged = ours(merger, base)
    assert merged["lm_head.weight"].shape == (330, 64)
    first_only = ours(merger_for(base, first), base)
    assert torch.equal(merged["lm_head.weight"], first_only["lm_head.weight"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"modules_to_save": ["lm_head"]}, r"=0\.5: it brings lm_head\.weight whole.*leave its weight out"),
        ({"trainable_token_indices": [3]}, r"=0\.5: LoRA on model\.embed_tokens has no scale"),
    ],
)
def test_what_has_no_scale_takes_no_weight(
    options: dict[str, Any], says: str, bases: Bases, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases(), **options)
    with pytest.raises(InputError, match=says):
        merger_for(bases(), (adapter, 0.5))
