"""Merges adapters into a checkpoint, one tensor at a time, with PEFT's layer code.

To merge a module, its base weights are put into PEFT's layer, PEFT merges them in float32, and they are
removed again. Whole parameters in the adapter replace the base's. Every tensor of the adapter is used:
`finish` raises when one would be left out of the GGUF.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.base_check import check_base
from pipeline.merge.checkpoint import Checkpoint, Parameters, Tensors
from pipeline.merge.embeddings import check_added_rows, embedding_parameters, resized_rows, with_rows
from pipeline.merge.lora_merger import LoraMerger
from pipeline.merge.meta_model import AdapterWeights, build_base, inject_adapter
from pipeline.merge.model_class import missing_class, require_class
from pipeline.merge.peft_layer import tuned_layers
from pipeline.merge.tensor_merger import TensorMerger
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.sources.reading import reading
from pipeline.sources.ternary import reject_merge
from pipeline.sources.trained_base import Nf4Rounding

try:
    import torch
except ImportError as error:
    raise MissingPackage(error.name or "torch") from error


class Merger(TensorMerger):
    """The Tensors of `base` with one adapter merged in by PEFT's layers; `tensors` are the base's."""

    def __init__(self, base: Source, tensors: Tensors, adapter: Adapter) -> None:
        super().__init__(tensors, adapter)
        model = self._build(base)
        self._embeddings = embedding_parameters(model)
        named = dict(model.named_parameters(remove_duplicate=False))
        self._expected = {name: tuple(value.shape) for name, value in named.items()}
        self._tied = _tied_parameters(named)
        self._parameters = Parameters(model, tensors)
        wrapped = inject_adapter(model, adapter)
        self._weights = AdapterWeights(wrapped, adapter, self._expected)
        self._layers = {
            name: layer
            for layer in tuned_layers(wrapped, self._expected, adapter)
            for name in layer.parameters
        }
        self._ready: dict[str, torch.Tensor] = {}
        self._owners = self._find_owners()
        self._set_targets(frozenset(self._owners))
        self.shapes = self._new_shapes()

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor of the merged model, in float32 if the adapter changes it."""
        parameter = self._owners.get(name)
        if parameter is None:
            return self._tensors.read(name)
        if name not in self._ready:
            self._merge_parameter(parameter)
        return self._ready.pop(name)

    def _build(self, base: Source) -> Any:
        model = build_base(base, self.settings)
        if isinstance(self._tensors, Checkpoint):
            check_base(base, model, self._tensors)
        rows = resized_rows(model, self._adapter)
        if rows is not None:
            self.settings["vocab_size"] = rows
            model = build_base(base, self.settings)
        self._rows = rows
        return model

    def _find_owners(self) -> dict[str, str]:
        """Return the parameter of every tensor that changes."""
        changed = {*self._layers, *self._weights.replaced}
        if self._rows is not None:
            changed |= self._embeddings.keys()
        tied = [name for group in self._tied for name in group]
        owners = {name: one for one in changed - set(tied) for name in self._names(one)}
        for group in self._tied:
            if changed & set(group):
                owners.update(self._owners_of_tied(group))
        return owners

    def _new_shapes(self) -> dict[str, tuple[int, ...]]:
        resized = {name: self._expected[one] for name, one in self._owners.items() if one in self._embeddings}
        return {**self._tensors.shapes, **resized}

    def _names(self, parameter: str) -> list[str]:
        if parameter not in self._parameters:
            raise InputError(
                f"the adapter {self._adapter.spec!r} changes {parameter}, which the base's checkpoint "
                "does not hold under that name: merge it with PEFT's merge_and_unload, save the model, and "
                "export that with --base"
            )
        return self._parameters.names(parameter)

    def _owners_of_tied(self, group: tuple[str, ...]) -> dict[str, str]:
        """Keep tied embeddings one tensor if they are equal after the merge; else untie them."""
        equal = len({_digest(self._value(one)) for one in group}) == 1  # one of them in memory at a time
        if not equal:
            self.settings["tie_word_embeddings"] = False
        owners = {}
        for parameter in group:
            if parameter in self._parameters:
                owners.update(dict.fromkeys(self._parameters.names(parameter), parameter))
            elif not equal:
                owners[parameter] = parameter
        return owners

    def _merge_parameter(self, parameter: str) -> None:
        """Compute all tensors of the layer of `parameter`, for `read`."""
        layer = self._layers.get(parameter)
        values = layer.merged(self._base) if layer else {parameter: self._base(parameter)}
        while values:
            name, value = values.popitem()
            self._check_finite(name, value)
            stored = name in self._parameters
            self._ready.update(self._parameters.split(name, value) if stored else {name: value})

    def _value(self, parameter: str) -> torch.Tensor:
        """Return a parameter's merged value in float32."""
        layer = self._layers.get(parameter)
        return layer.merged(self._base)[parameter] if layer else self._base(parameter)

    def _base(self, parameter: str) -> torch.Tensor:
        """Return a parameter before the merge, in float32: the base's, or the adapter's replacement."""
        tied = next((group for group in self._tied if parameter in group), (parameter,))
        for one in (parameter, *tied):
            if one in self._weights.replaced and (one == parameter or one not in self._weights.separate):
                return self._weights.read(one)
        stored = next((one for one in tied if one in self._parameters), parameter)
        value = self._parameters.read(stored)
        if self._rows is None or parameter not in self._embeddings:
            return value
        layer = self._layers.get(parameter)
        check_added_rows(parameter, self._rows, len(value), layer.tokens if layer else set(), self._adapter)
        return with_rows(value, self._rows)


def _digest(value: torch.Tensor) -> bytes:
    return hashlib.sha256(value.contiguous().numpy().data).digest()


def _tied_parameters(named: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return groups of names of the same parameter (tied embeddings); the checkpoint stores the first."""
    groups: dict[int, list[str]] = {}
    for name, value in named.items():
        groups.setdefault(id(value), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def merge_in_sequence(
    base: Source, adapters: Sequence[Adapter], rounding: Nf4Rounding | None = None
) -> TensorMerger:
    """Merge the adapters one after the other. Raises InputError for one that does not fit.

    With a `rounding` they are merged into the base as rounded by loading it in 4 bits. Without a class
    of transformers for the base, they are merged by the formula of LoRA.
    """
    reject_merge(base)
    tensors: Tensors = Checkpoint(base.weight_files())
    model_type = missing_class(base)
    if rounding is not None:
        require_class(
            base, "--qlora-base nf4", "merge the adapter where it was trained, and export the result"
        )
        from pipeline.merge.nf4 import Nf4Base

        tensors = Nf4Base(base, tensors, rounding)
    for adapter in adapters:
        what = f"the adapter {adapter.spec!r} cannot be merged into the base {base.spec!r}"
        with reading(what, "save it again with PEFT, or merge it with PEFT's merge_and_unload"):
            if model_type is None:
                tensors = Merger(base, tensors, adapter)
            else:
                tensors = LoraMerger(base, model_type, tensors, adapter)
    assert isinstance(tensors, TensorMerger)
    return tensors
