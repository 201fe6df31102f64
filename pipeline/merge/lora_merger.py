"""Merges plain LoRA into a checkpoint by its formula, W + scale * B A, without a model class.

The only way for a base whose class its repository brings as code, which is never run. What a class would say
is read from the files instead: a LoRA of PATH changes the checkpoint's PATH.weight. The numbers equal those
of PEFT's layers to the bit. All other kinds of adapters are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint, Tensors
from pipeline.merge.meta_model import peft_config, suppress_warnings
from pipeline.merge.tensor_merger import TensorMerger
from pipeline.sources.adapter import PEFT_PREFIX, Adapter, beyond_plain_lora
from pipeline.sources.model_source import Source, read_json

try:
    import torch
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key
except ImportError as error:
    raise MissingPackage(error.name or "peft") from error

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_TRANSPOSED = ("JAISLMHeadModel",)
"""Architectures whose weights are [in, out], of those that only llama.cpp's converter knows."""


@dataclass(frozen=True)
class LoraLayer:
    """The LoRA of the module at `path`: its tensors are `scale` * up [out, rank] @ down [rank, in]."""

    path: str
    rank: int
    scale: float

    @property
    def weight(self) -> str:
        """The name of the checkpoint's tensor that it changes."""
        return f"{self.path}.weight"

    @property
    def down(self) -> str:
        """The name of the adapter's tensor A."""
        return f"{PEFT_PREFIX}{self.path}{_DOWN}"

    @property
    def up(self) -> str:
        """The name of the adapter's tensor B."""
        return f"{PEFT_PREFIX}{self.path}{_UP}"


class LoraMerger(TensorMerger):
    """The Tensors of a base with one plain LoRA or rsLoRA merged in. Raises InputError for other adapters."""

    def __init__(self, base: Source, model_type: str, tensors: Tensors, adapter: Adapter) -> None:
        super().__init__(tensors, adapter)
        layers = lora_layers(base, model_type, tensors, adapter)
        self._layers = {layer.weight: layer for layer in layers}
        self._file = Checkpoint([adapter.weights_file])
        self._set_targets(frozenset(self._layers))

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor of the merged model, in float32 if the adapter changes it."""
        value, layer = self._tensors.read(name), self._layers.get(name)
        if layer is None:
            return value
        if value.dtype not in _FLOATS:
            raise InputError(f"{name} is stored as {value.dtype}, and a merge needs full precision")
        value = value.to(torch.float32, copy=True)
        value += (self._file.read(layer.up).float() @ self._file.read(layer.down).float()) * layer.scale
        self._check_finite(name, value)
        return value


def lora_layers(base: Source, model_type: str, tensors: Tensors, adapter: Adapter) -> list[LoraLayer]:
    """Return the layers of a plain LoRA, all of which fit the checkpoint's tensors. Raises InputError."""
    _check_base(base)
    if (reason := beyond_plain_lora(adapter)) is not None:
        raise InputError(
            f"the adapter {adapter.spec!r} cannot be merged into the base model {base.spec!r}: {reason}, and "
            f"transformers has no class for {model_type}, without which only LoRA on linear layers is "
            "merged: merge it where the model's own code runs, save the model, and export that with --base"
        )
    with suppress_warnings():
        config = peft_config(adapter.config, adapter)
    paths = sorted({name.removesuffix(_DOWN).removesuffix(_UP) for name in adapter.tensors})
    layers = [_layer(path, config, adapter) for path in paths]
    for layer in layers:
        _check_shapes(layer, base, tensors, adapter)
    _check_complete({layer.weight for layer in layers}, config, tensors, adapter)
    return layers


def _check_base(base: Source) -> None:
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    if config.get("quantization_config"):
        raise InputError(
            f"the base model {base.spec!r} is quantized, and a merge needs full precision: "
            "give the unquantized model that it was made from"
        )
    transposed = [name for name in config["architectures"] if name in _TRANSPOSED]
    if transposed:
        raise InputError(
            f"the base model {base.spec!r} ({transposed[0]}) keeps weights transposed, and transformers has "
            "no class that says which: merge the adapter where the model's own code runs, save the model, "
            "and export that with --base"
        )


def _layer(name: str, config: object, adapter: Adapter) -> LoraLayer:
    """Return the layer with PEFT's rank and scale (peft/tuners/lora/model.py and layer.py)."""
    path = name.removeprefix(PEFT_PREFIX)
    ranks, alphas = getattr(config, "rank_pattern", None) or {}, getattr(config, "alpha_pattern", None) or {}
    rank = int(ranks.get(get_pattern_key(list(ranks), path), getattr(config, "r", 0)))
    alpha = alphas.get(get_pattern_key(list(alphas), path), getattr(config, "lora_alpha", 0))
    if rank < 1:
        raise InputError(f"the adapter {adapter.spec!r} has r = {rank} for {path}: save it again with PEFT")
    scale = alpha / math.sqrt(rank) if getattr(config, "use_rslora", False) else alpha / rank
    return LoraLayer(path, rank, scale * adapter.weight if adapter.weight != 1.0 else scale)


def _check_shapes(layer: LoraLayer, base: Source, tensors: Tensors, adapter: Adapter) -> None:
    weight = tensors.shapes.get(layer.weight)
    if weight is None:
        raise InputError(
            f"the adapter {adapter.spec!r} changes {layer.weight}, which the checkpoint of {base.spec!r} "
            "does not have: give the base that it was trained on"
        )
    if len(weight) != 2:
        raise InputError(
            f"the adapter {adapter.spec!r} changes {layer.weight} of the shape {list(weight)}, which is no "
            "linear layer's: merge it where the model's own code runs, and export the result with --base"
        )
    for name, expected in ((layer.down, (layer.rank, weight[1])), (layer.up, (weight[0], layer.rank))):
        found = adapter.tensors.get(name)
        if found is None:
            raise InputError(f"the adapter {adapter.spec!r} lacks {name}: its file is incomplete")
        if found.shape != expected:
            raise InputError(
                f"the adapter {adapter.spec!r} has {name} of the shape {list(found.shape)}, and this base "
                f"with rank {layer.rank} needs {list(expected)}: give the base that it was trained on"
            )


def _check_complete(changed: set[str], config: object, tensors: Tensors, adapter: Adapter) -> None:
    """Raise InputError when a linear layer that the adapter's configuration names has no LoRA."""
    if not getattr(config, "target_modules", None):
        return
    for name, shape in tensors.shapes.items():
        path = name.removesuffix(".weight")
        if len(shape) != 2 or path == name or name in changed:
            continue
        if check_target_module_exists(config, path):
            raise InputError(
                f"the adapter {adapter.spec!r} lacks a LoRA of {path}, which its configuration names: it was "
                "made for another base, or its file is incomplete"
            )
