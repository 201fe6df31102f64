"""A base that is rounded as the exported file will be, so that training sees the very model that ships.

PEFT computes W x + s B A x. With W replaced by Q(W + s B A) - s B A, where Q rounds to the file's types, its
forward pass is that of the quantized file, and LoRA's ordinary gradient is the straight-through estimator:
neither custom kernels nor a gradient of W's size. Between two refreshes the model moves with its adapter.
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
from ggufio.ggml import type_name
from ggufio.ggml_reader import GgufTensors
from pipeline.certificate.tensors.layout import GgufLocation, TensorMap
from pipeline.errors import InputError
from pipeline.quantize.imatrix_file import Importance
from pipeline.quantize.rounding import round_in_place, to_full_type

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

    def describe(self) -> dict[str, Any]:
        """Return the plan for an adapter's record: the number of tensors of each type, and digests."""
        counts: dict[str, int] = {}
        for number in self.types.values():
            counts[type_name(number)] = counts.get(type_name(number), 0) + 1
        named = "".join(f"{name} {type_name(number)}\n" for name, number in sorted(self.types.items()))
        found: dict[str, Any] = {
            "full_type": type_name(self.full_type),
            "types": counts,
            "types_sha256": hashlib.sha256(named.encode()).hexdigest(),
        }
        if self.importance:
            found["importance_sha256"] = _importance_digest(self.importance)
        return found


def _importance_digest(importance: Importance) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(importance.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values, np.float32).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Rounded:
    """A weight in the model that the file stores as `tensor` in the type `dtype`.

    `layer` is PEFT's layer around it, None where the adapter does not change it; `original` are its numbers
    before rounding, of a layer only.
    """

    weight: torch.nn.Parameter
    location: GgufLocation
    dtype: int
    transposed: bool
    layer: Any = None
    original: torch.Tensor | None = None


class RoundedBase:
    """The weights of a model with a LoRA adapter, rounded as the plan says; `refresh` follows the adapter."""

    def __init__(self, model: Any, layout: TensorMap, plan: RoundingPlan, threads: int = 1) -> None:
        """Find the file's tensor of each weight; nothing is rounded before `refresh`.

        Raises InputError for a weight that the file stores in another way than is known here.
        """
        self._plan = plan
        self._threads = threads
        self._head = model.get_output_embeddings().weight
        self._original_head = self._head.detach().clone()
        self._weights = list(_rounded_weights(model, layout, plan))
        self._fixed_are_rounded = False

    @property
    def original_head(self) -> torch.Tensor:
        """The output matrix before rounding, [vocabulary, hidden]."""
        return self._original_head

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the base so that its sum with the adapter, as it is now, is what the file would hold."""
        todo = [one for one in self._weights if one.layer is not None or not self._fixed_are_rounded]
        if self._threads == 1:
            for one in todo:
                self._round(one)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(self._round, todo))
        self._fixed_are_rounded = True

    def rounded(self) -> Iterator[tuple[GgufLocation, torch.Tensor]]:
        """Yield each weight's location in the file and its numbers there, rows in the model's order."""
        for one in self._weights:
            value = one.weight.detach()
            if one.layer is not None:
                value = value + one.layer.get_delta_weight("default")
            yield one.location, value.T if one.transposed else value

    @torch.no_grad()
    def check_against(self, full: GgufTensors, layout: TensorMap) -> None:
        """Raise InputError unless the unquantized file holds what this model would store. Call it first."""
        for one in self._weights:
            value = self._whole(one)
            rows = value.T if one.transposed else value
            wanted = np.ascontiguousarray(layout.reordered(one.location, value.float().numpy()))
            count = min(_CHECKED_ROWS, len(rows))
            part = np.ascontiguousarray(wanted[:count])
            to_full_type(part, self._plan.full_type)
            name = one.location.tensor
            if not np.array_equal(part, full.read(name, 0, count)):
                raise InputError(
                    f"the GGUF's {name} is not this model's weight: llama.cpp's converter changes it in a way "
                    "that training through the rounded base does not know; export without --recover"
                )

    def _whole(self, one: _Rounded) -> torch.Tensor:
        """Return the weight of the tuned model before rounding, as the merge of an export computes it."""
        if one.layer is None or one.original is None:
            return one.weight.detach()
        merged: torch.Tensor = one.original.float() + one.layer.get_delta_weight("default")
        return merged

    @torch.no_grad()
    def _round(self, one: _Rounded) -> None:
        # The same two additions as in PEFT's merge, so that the numbers are equal to the bit.
        delta = None if one.layer is None else one.layer.get_delta_weight("default")
        value = one.weight.detach() if one.original is None else one.original.float()
        value = value.clone() if delta is None else value + delta
        rows = (value.T if one.transposed else value).contiguous()
        importance = self._plan.importance.get(one.location.tensor)
        round_in_place(rows.numpy(), self._plan.full_type, one.dtype, None if importance is None else importance[0])
        value = rows.T if one.transposed else rows
        if delta is not None:
            value = value - delta
        one.weight.copy_(value)


def _rounded_weights(model: Any, layout: TensorMap, plan: RoundingPlan) -> Iterator[_Rounded]:
    from peft.tuners.lora.layer import LoraLayer

    layers = {
        id(module.get_base_layer().weight): module
        for module in model.modules()
        if isinstance(module, LoraLayer)
    }
    left = {name for name in plan.types if name.endswith(".weight")}
    unknown = []
    for full_name, weight in model.named_parameters():
        if ".lora_" in full_name or weight.ndim < 2:
            continue
        name = full_name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        location = layout.location(name)
        if location is None or location.expert is not None or location.tensor not in plan.types:
            unknown.append(name)
            continue
        left.discard(location.tensor)
        layer = layers.get(id(weight))
        original = None
        if layer is not None:
            original = _compact(weight.detach())
        yield _Rounded(
            weight, location, plan.types[location.tensor], layout.is_transposed(location), layer, original
        )
    if unknown:
        raise InputError(
            f"{unknown[0]}{and_more(len(unknown) - 1, 'weight')} of this base have no tensor of their own in "
            "the GGUF, and training through the rounded base cannot follow that: export without --recover"
        )


def _compact(weight: torch.Tensor) -> torch.Tensor:
    """Return a copy in 16 bits where that holds every number exactly, as most bases are stored."""
    for dtype in (torch.bfloat16, torch.float16):
        small = weight.to(dtype)
        if torch.equal(small.to(weight.dtype), weight):
            return small
    return weight.clone()
