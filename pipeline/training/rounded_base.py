"""A base that is rounded as the exported file will be, so that training sees the very model that ships.

PEFT computes W x + s B A x. With W replaced by Q(W + s B A) - s B A, where Q rounds to the file's types, its
forward pass is that of the quantized file, and LoRA's ordinary gradient is the straight-through estimator:
neither custom kernels nor a gradient of W's size. Between two refreshes the model moves with its adapter.

An adapter that stays apart, beside the base's file, is not rounded with it: W is replaced by Q(W), once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from common.text import and_more
from ggufio.ggml_reader import Array, GgufTensors, rounded_to
from pipeline.certificate.tensors.layout import GgufLocation, TensorMap
from pipeline.errors import InputError
from pipeline.quantize.imatrix_file import Importance
from pipeline.quantize.rounding import quantize_rows, round_in_place

_CHECKED_ROWS = 64
"""Rows of a tensor that are compared with the unquantized file."""


@dataclass(frozen=True)
class RoundingPlan:
    """What an export will store of each tensor of a GGUF.

    `types` are the `enum ggml_type` by tensor name, `full_type` is that of the unquantized file, to which
    numbers are rounded first, and `importance` weights the errors of columns.
    """

    full_type: int
    types: Mapping[str, int]
    importance: Importance = field(default_factory=dict)


@dataclass(frozen=True)
class _Rounded:
    """A weight in the model, its place in the file and its type there.

    `layer` is PEFT's layer around it, None where the adapter does not change it; `original` are its numbers
    before rounding, of a layer only.
    """

    weight: torch.nn.Parameter
    location: GgufLocation
    dtype: int
    transposed: bool
    layer: Any = None
    original: torch.Tensor | None = None

    @property
    def name(self) -> str:
        """The tensor's name in the file."""
        return self.location.tensor


class RoundedBase:
    """The weights of a model with a LoRA adapter, rounded as the plan says; `refresh` follows the adapter."""

    def __init__(
        self, model: Any, layout: TensorMap, plan: RoundingPlan, threads: int = 1, *, apart: bool = False
    ) -> None:
        """Find the file's tensor of each weight; nothing is rounded before `refresh`.

        With `apart` the file holds the base alone, and the adapter stays beside it.

        Raises InputError for a weight that the file stores in another way than is known here.
        """
        self._layout = layout
        self._plan = plan
        self._threads = threads
        self.original_head: torch.Tensor = model.get_output_embeddings().weight.detach().clone()
        """The output matrix before rounding, [vocabulary, hidden]."""
        self._weights = list(_rounded_weights(model, layout, plan, apart=apart))
        self._fixed: dict[str, str] = {}
        self._is_fresh = False

    def mark_stale(self) -> None:
        """Say that the adapter has changed since the last refresh."""
        self._is_fresh = False

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the base so that its sum with the adapter, as it is now, is what the file would hold."""
        if self._is_fresh:
            return
        todo = [one for one in self._weights if one.layer is not None or one.name not in self._fixed]
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(self._round, todo))
        self._is_fresh = True

    def rounded(self) -> Iterator[tuple[str, Array]]:
        """Yield each tensor's name in the file and its numbers there."""
        for one in self._weights:
            value = one.weight.detach().cpu()
            if one.layer is not None:
                value = value + _delta(one.layer)
            yield one.name, self._layout.reordered(one.location, value.numpy())

    @torch.no_grad()
    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each tensor's bytes in the file, by name; `refresh` must have been called."""
        return {
            one.name: self._fixed.get(one.name) or self._digest(one, _tuned(one)) for one in self._weights
        }

    @torch.no_grad()
    def check_against(self, full: GgufTensors, *, exactly: bool = True) -> None:
        """Raise InputError unless the unquantized file holds what this model would store. Call it first.

        Without `exactly`, numbers may differ as sums do that are added in another order.
        """
        for one in self._weights:
            wanted = self._layout.reordered(one.location, _tuned(one).float().numpy())
            part = rounded_to(wanted[:_CHECKED_ROWS], self._plan.full_type)
            stored = full.read(one.name, 0, len(part))
            if not (np.array_equal(part, stored) or (not exactly and _is_near(part, stored))):
                raise InputError(
                    f"the GGUF's {one.name} is not this model's weight: llama.cpp's converter changes it in "
                    "a way that training through the rounded base does not know; export without --recover"
                )

    def _digest(self, one: _Rounded, value: torch.Tensor) -> str:
        rows = rounded_to(self._layout.reordered(one.location, value.float().numpy()), self._plan.full_type)
        data = quantize_rows(np.ascontiguousarray(rows), one.dtype, self._importance(one))
        return hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()

    def _importance(self, one: _Rounded) -> Array | None:
        found = self._plan.importance.get(one.name)
        return None if found is None else np.ascontiguousarray(found[0])

    @torch.no_grad()
    def _round(self, one: _Rounded) -> None:
        value = _tuned(one)
        if one.layer is None:
            self._fixed[one.name] = self._digest(one, value)
        rows = (value.T if one.transposed else value).float().contiguous().clone()
        round_in_place(rows.numpy(), self._plan.full_type, one.dtype, self._importance(one))
        rounded = rows.T if one.transposed else rows
        if one.layer is not None:
            rounded = rounded - _delta(one.layer)
        one.weight.copy_(rounded)


def _is_near(found: Array, wanted: Array) -> bool:
    """Return whether numbers of 16 bits differ in their last places only."""
    largest = float(np.abs(wanted).max(initial=0.0))
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, rtol=2**-7, atol=2**-9 * largest))


def _tuned(one: _Rounded) -> torch.Tensor:
    """Return the weight with the adapter as it is now, by the additions of PEFT's merge: equal to the bit.

    They are made on the CPU, as an export makes them: a GPU adds in another order.
    """
    if one.layer is None or one.original is None:
        return one.weight.detach().cpu()
    return one.original.float() + _delta(one.layer)


def _delta(layer: Any) -> torch.Tensor:
    """Return the adapter's change of a layer, on the CPU, as PEFT computes it."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    delta: torch.Tensor
    if down.device.type == "cpu":
        delta = layer.get_delta_weight("default").detach()
    else:
        product = up.detach().cpu() @ down.detach().cpu()
        delta = (product.T if layer.fan_in_fan_out else product) * layer.scaling["default"]
    return delta


def _rounded_weights(model: Any, layout: TensorMap, plan: RoundingPlan, *, apart: bool) -> Iterator[_Rounded]:
    from peft.tuners.lora.layer import LoraLayer

    layers = {
        id(module.get_base_layer().weight): module
        for module in model.modules()
        if isinstance(module, LoraLayer)
    }
    unknown = []
    for full_name, weight in model.named_parameters():
        if ".lora_" in full_name or weight.ndim < 2:
            continue
        name = full_name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        location = layout.location(name)
        if location is None or location.expert is not None or location.tensor not in plan.types:
            unknown.append(name)
            continue
        layer = None if apart else layers.get(id(weight))
        original = None if layer is None else _compact(weight.detach())
        dtype, transposed = plan.types[location.tensor], layout.is_transposed(location)
        yield _Rounded(weight, location, dtype, transposed, layer, original)
    if unknown:
        raise InputError(
            f"{unknown[0]}{and_more(len(unknown) - 1, 'weight')} of this base have no tensor of their own in "
            "the GGUF, and training through the rounded base cannot follow that: export without --recover"
        )


def _compact(weight: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU, in 16 bits where they hold every number, as most bases are stored."""
    weight = weight.cpu()
    for dtype in (torch.bfloat16, torch.float16):
        small = weight.to(dtype)
        if torch.equal(small.to(weight.dtype), weight):
            return small
    return weight.clone()
