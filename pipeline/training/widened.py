"""A LoRA adapter with room for more: its rank raised, and spread over all linear layers of the base.

The new parts change nothing until they are trained: their `lora_B` is zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from common.files import atomic_directory
from pipeline.convert.lora import layer_scales
from pipeline.merge.meta_model import build_base, linear_layers
from pipeline.sources.adapter import CONFIG, PEFT_PREFIX, Adapter, read_adapter
from pipeline.sources.model_source import WEIGHTS, Source, adapter_source

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_REPLACED = (
    "alpha_pattern",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "r",
    "rank_pattern",
    "target_modules",
)
"""The keys of an adapter's configuration that say which layers it has, and how large."""


def widened(adapter: Adapter, base: Source, rank: int, seed: int, folder: Path) -> Adapter:
    """Return the adapter with `rank` more dimensions in each linear layer of `base`, written to `folder`.

    A folder that is there already is read. Raises InputError for an adapter of another base.
    """
    if not folder.is_dir():
        tensors = load_file(adapter.weights_file)
        with atomic_directory(folder) as partial:
            wide, config = _widen(adapter, tensors, base, rank, seed)
            save_file(wide, partial / WEIGHTS, metadata={"format": "pt"})
            (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return read_adapter(adapter_source(str(folder)))


def _widen(
    adapter: Adapter, tensors: Mapping[str, torch.Tensor], base: Source, rank: int, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    scales, model = layer_scales(base, adapter), build_base(base, {})
    sizes = {name: (layer.out_features, layer.in_features) for name, layer in linear_layers(model).items()}
    ranks = {
        name.removeprefix(PEFT_PREFIX).removesuffix(_DOWN): len(value)
        for name, value in tensors.items()
        if name.endswith(_DOWN)
    }
    for path in ranks.keys() - sizes.keys():  # such as the output head
        found = model.get_submodule(path)
        sizes[path] = (found.out_features, found.in_features)
    random = torch.Generator().manual_seed(seed)
    dtype = next(iter(tensors.values())).dtype
    wide = {}
    for path, (rows, width) in sizes.items():
        bound = 1 / math.sqrt(width)  # as PEFT initialises it
        down = torch.empty(rank, width).uniform_(-bound, bound, generator=random).to(dtype)
        parts = down, torch.zeros(rows, rank, dtype=dtype)
        name = f"{PEFT_PREFIX}{path}"
        if path in ranks:
            parts = (
                torch.cat([tensors[f"{name}{_DOWN}"], parts[0]]),
                torch.cat([tensors[f"{name}{_UP}"], parts[1]], dim=1),
            )
        wide[f"{name}{_DOWN}"], wide[f"{name}{_UP}"] = (part.contiguous() for part in parts)
    return wide, _config(adapter, ranks, scales, list(sizes), rank)


def _config(
    adapter: Adapter, ranks: Mapping[str, int], scales: Mapping[str, float], paths: list[str], more: int
) -> dict[str, Any]:
    """Return the configuration whose scale in each layer is the one before."""
    usual = adapter.config.get("lora_alpha", 8) / _divisor(adapter, adapter.rank)
    common_rank = max(set(ranks.values()), key=list(ranks.values()).count) + more
    new_ranks = {path: ranks.get(path, 0) + more for path in paths}
    alphas = {path: scales.get(path, usual) * _divisor(adapter, rank) for path, rank in new_ranks.items()}
    alpha = usual * _divisor(adapter, common_rank)
    kept = {key: value for key, value in adapter.config.items() if key not in _REPLACED}
    return {
        **kept,
        "r": common_rank,
        "lora_alpha": alpha,
        "target_modules": sorted({path.rpartition(".")[2] for path in paths}),
        "rank_pattern": {path: rank for path, rank in new_ranks.items() if rank != common_rank},
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
    }


def _divisor(adapter: Adapter, rank: int) -> float:
    return math.sqrt(rank) if adapter.config.get("use_rslora") else float(rank)
