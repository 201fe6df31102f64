"""Train a ternary model: products see three values a weight and 8-bit activations, AdamW the latent weights.

Rounding has no useful gradient, so the gradient of the rounded value is taken for that of the latent one (the
straight-through estimator), as in BitNet b1.58 (https://arxiv.org/abs/2402.17764) and AutoBitLinear.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import TrainerCallback

from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint
from pipeline.merge.ternary import TernaryTensors, absmax_int8, absmean_ternary, load_ternary
from pipeline.sources.model_source import Source
from pipeline.sources.ternary import TernaryFormat, find_ternary, not_ternary, online_config

_VALUES = TernaryFormat(online=False)  # three values in place of whole numbers, and no weight_scale


class TernaryLinear(torch.nn.Linear):
    """A linear layer that computes with ternary weights and 8-bit activations; `weight` is the latent one.

    In training, `strength` is the share of the rounding that is applied, 0 to 1.
    """

    strength = 1.0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the product with the rounded weight; gradients pass the rounding unchanged."""
        strength = self.strength if self.training else 1.0
        weight = self.weight + strength * (absmean_ternary(self.weight) - self.weight).detach()
        rounded = input + strength * (absmax_int8(input) - input).detach()
        return functional.linear(rounded, weight, self.bias)


def load_for_training(source: Source) -> Any:
    """Load a ternary base in float32 with TernaryLinear layers. Raises InputError for an ordinary one."""
    found = find_ternary(source)
    if found is None:
        raise InputError(
            f"--ternary trains a ternary base; {source.spec!r} is none ({not_ternary(source)}), and "
            "three values a weight ruin an ordinary model (from 2.5 to 21 nats a token): train an adapter, "
            "or begin with a ternary base (scripts/make_base.py --ternary)"
        )
    tensors = TernaryTensors(source, Checkpoint(source.weight_files()), found.format or _VALUES)
    model = load_ternary(source, tensors, latent=True)
    for path in tensors.modules:
        model.set_submodule(path, _ternary(model.get_submodule(path)))
    converted = set(tensors.modules)
    kept = [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and path not in converted
    ]
    model.config.quantization_config = online_config(kept)
    return model


def _ternary(linear: torch.nn.Linear) -> TernaryLinear:
    layer = TernaryLinear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    layer.weight, layer.bias = linear.weight, linear.bias
    return layer


class RoundingWarmup(TrainerCallback):  # type: ignore[misc]  # transformers is untyped to mypy
    """Raises the rounding's strength from 0 to 1 over a `share` of the steps; with 0 it is 1 throughout."""

    def __init__(self, model: Any, share: float) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, TernaryLinear)]
        self._share = share

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the strength of the step, which depends on its number alone."""
        steps = self._share * state.max_steps
        for layer in self._layers:
            layer.strength = min(1.0, state.global_step / steps) if steps else 1.0
