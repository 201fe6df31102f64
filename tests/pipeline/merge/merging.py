"""Helpers for comparing the export's merge with PEFT's, by the checkpoint's tensor names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from pipeline.merge.merger import merge_in_sequence
from pipeline.merge.tensor_merger import TensorMerger
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.tiny import merged_by_peft

State = dict[str, torch.Tensor]


def merger_for(base: Path, *adapters: Path | tuple[Path, float]) -> TensorMerger:
    weighted = [pair if isinstance(pair, tuple) else (pair, 1.0) for pair in adapters]
    read = [read_adapter(adapter_source(str(path)), weight) for path, weight in weighted]
    return merge_in_sequence(base_source(str(base)), read)


def stored(base: Path) -> State:
    """Return the base's tensors in float32."""
    return {
        name: tensor.float()
        for file in sorted(base.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def ours(merger: TensorMerger, base: Path) -> State:
    """Return all tensors of the merged model, merged one at a time."""
    merged = {name: merger.merge(name) for name in sorted(merger.changed)}
    merger.finish()
    assert all(tensor.dtype == torch.float32 for tensor in merged.values())
    return stored(base) | merged


def pefts(model: Any) -> State:
    """Return a model's tensors by its checkpoint's names; tied embeddings once."""
    state = revert_weight_conversion(model, dict(model.state_dict()))
    if model.config.tie_word_embeddings:
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    return state


def assert_equals_peft(base: Path, adapter: Path) -> int:
    """Assert equality with PEFT's merge of the whole model; return the number of changed tensors."""
    return assert_equal(ours(merger_for(base, adapter), base), pefts(merged_by_peft(base, adapter)), base)


def assert_equal(merged: State, expected: State, base: Path) -> int:
    assert merged.keys() == expected.keys()
    different = [name for name in merged if not torch.equal(merged[name], expected[name])]
    assert not different
    before = stored(base)
    return sum(name not in before or not torch.equal(merged[name], before[name]) for name in merged)


def logits(model: Any, tokens: int = 300) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=torch.arange(3, tokens, 7)[None]).logits
    return result


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def adapted(base: Path, adapter: Path) -> Any:
    """Return the trained model: the base with the adapter injected, not merged."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter))


def scale_by(model: Any, weight: float) -> None:
    """Scale an adapter with PEFT."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.scale_layer(weight)


def assembled(base: Path, merger: TensorMerger) -> Any:
    """Return a transformers model of the merged tensors, with their settings."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, **merger.settings)
    model = AutoModelForCausalLM.from_config(config).float()
    missing, unexpected = model.load_state_dict(ours(merger, base), strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    model.tie_weights()
    return model
