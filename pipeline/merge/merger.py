"""One tensor of the base in, one merged tensor out, by PEFT's own layer code.

To merge a module, its base weights are filled into PEFT's layer alone, PEFT merges them in float32,
and they are taken out again. Whole parameters that the adapter brings take the place of the base's.
Every tensor of the adapter is used: `finish` raises when one would be left out of the GGUF.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import MissingPackage
from common.text import and_more
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint, Parameters, Tensors
from pipeline.merge.embeddings import check_added_rows, embedding_parameters, resized_rows, with_rows
from pipeline.merge.meta_model import AdapterWeights, build_base, inject_adapter
from pipeline.merge.peft_layer import tuned_layers
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source

try:
    import torch
except ImportError as error:
    raise MissingPackage(error.name or "torch") from error


class Merger:
    """An adapter merged into `tensors`, the base's, one at a time: the Tensors of the merged model.

    `targets` are the names of the tensors that the adapter changes. A tensor that the checkpoint lacks
    is among them, and `added`, when the input and output embeddings were one and no longer are.
    """

    def __init__(self, base: Source, tensors: Tensors, adapter: Adapter) -> None:
        self._adapter = adapter
        self._tensors = tensors
        self.settings: dict[str, object] = dict(tensors.settings)
        model = self._build(base)
        self._embeddings = embedding_parameters(model)
        named = dict(model.named_parameters(remove_duplicate=False))
        self._expected = {name: tuple(value.shape) for name, value in named.items()}
        self._twins = _twins(named)
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
        self.targets = frozenset(self._owners)
        self.changed = self.targets | tensors.changed
        self.added = tensors.added | (self.targets - tensors.shapes.keys())
        self.shapes = self._new_shapes()
        self._waiting = set(self.changed)

    def merge(self, name: str) -> torch.Tensor:
        """The merged tensor `name` in float32; every changed tensor is asked for once."""
        self.use(name)
        return self.read(name).float()

    def use(self, name: str) -> None:
        """Note that the converter takes the merged `name`, as it must once."""
        self._waiting.remove(name)  # a second time would be a bug of the converter's

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the merged model, in float32 if the adapter changes it."""
        parameter = self._owners.get(name)
        if parameter is None:
            return self._tensors.read(name)
        if name not in self._ready:
            self._make(parameter)
        return self._ready.pop(name)

    def finish(self) -> None:
        """Check that nothing of the adapter was left out; raises InputError that names what was."""
        if self._waiting:
            raise InputError(
                f"the adapter {self._adapter.spec!r} needs {min(self._waiting)}"
                f"{and_more(len(self._waiting) - 1, 'tensor')} in the GGUF, and llama.cpp's converter leaves "
                "them out for this architecture: its tuning would be lost"
            )

    def _build(self, base: Source) -> Any:
        model = build_base(base, self.settings)
        rows = resized_rows(model, self._adapter)
        if rows is not None:
            self.settings["vocab_size"] = rows
            model = build_base(base, self.settings)
        self._rows = rows
        return model

    def _find_owners(self) -> dict[str, str]:
        """Every tensor that changes -> the parameter that it is (a part of)."""
        touched = {*self._layers, *self._weights.replaced}
        if self._rows is not None:
            touched |= self._embeddings.keys()
        twins = [twin for pair in self._twins for twin in pair]
        owners = {name: one for one in touched - set(twins) for name in self._names(one)}
        for pair in self._twins:
            if touched & set(pair):
                owners.update(self._owners_of_twins(pair))
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

    def _owners_of_twins(self, pair: tuple[str, ...]) -> dict[str, str]:
        """Tied embeddings stay one tensor where the adapter leaves them equal, and become two where not."""
        tied = len({_digest(self._value(one)) for one in pair}) == 1  # one of them in memory at a time
        if not tied:
            self.settings["tie_word_embeddings"] = False
        owners = {}
        for parameter in pair:
            if parameter in self._parameters:
                owners.update(dict.fromkeys(self._parameters.names(parameter), parameter))
            elif not tied:
                owners[parameter] = parameter
        return owners

    def _make(self, parameter: str) -> None:
        """Put all tensors that are made along with `parameter` where `read` takes them."""
        layer = self._layers.get(parameter)
        values = layer.merged(self._base) if layer else {parameter: self._base(parameter)}
        while values:
            name, value = values.popitem()
            # PEFT's safe_merge looks at every number and takes longer than the merge; one sum sees them all.
            if not torch.isfinite(value.sum()):
                raise InputError(
                    f"the adapter {self._adapter.spec!r} makes {name} infinite or not a number: it is damaged"
                )
            held = name in self._parameters
            self._ready.update(self._parameters.split(name, value) if held else {name: value})

    def _value(self, parameter: str) -> torch.Tensor:
        layer = self._layers.get(parameter)
        return layer.merged(self._base)[parameter] if layer else self._base(parameter)

    def _base(self, parameter: str) -> torch.Tensor:
        """A parameter as PEFT's layer finds it, in float32: the base's, or the adapter's that replaces it."""
        twins = next((pair for pair in self._twins if parameter in pair), (parameter,))
        for one in (parameter, *twins):
            if one in self._weights.replaced and (one == parameter or one not in self._weights.separate):
                return self._weights.read(one)
        held = next((one for one in twins if one in self._parameters), parameter)
        value = self._parameters.read(held)
        if self._rows is None or parameter not in self._embeddings:
            return value
        layer = self._layers.get(parameter)
        check_added_rows(parameter, self._rows, len(value), layer.tokens if layer else set(), self._adapter)
        return with_rows(value, self._rows)


def _digest(value: torch.Tensor) -> bytes:
    return hashlib.sha256(value.contiguous().numpy().data).digest()


def _twins(named: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Parameters that are one and the same, such as tied embeddings: the checkpoint holds the first."""
    groups: dict[int, list[str]] = {}
    for name, value in named.items():
        groups.setdefault(id(value), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def merge_in_sequence(base: Source, adapters: Sequence[Adapter], qlora_base: str | None = None) -> Merger:
    """Each adapter merged into what the ones before it left; raises InputError for what does not fit.

    With `qlora_base` "nf4" the first is merged into the base as a model loaded in 4 bits has it.
    """
    tensors: Tensors = Checkpoint(base.weight_files())
    if qlora_base == "nf4":
        from pipeline.merge.nf4 import Nf4Base

        tensors = Nf4Base(base, tensors)
    for adapter in adapters:
        tensors = Merger(base, tensors, adapter)
    assert isinstance(tensors, Merger)
    return tensors
