"""A ternary base's tensors: its linear weights unpacked or rounded, one at a time, as they are read.

The rules are those of transformers' BitLinear and AutoBitLinear (integrations/bitnet.py), which also quantize
activations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint, Parameters, Tensors
from pipeline.merge.meta_model import build_base
from pipeline.merge.model_class import missing_class
from pipeline.sources.model_source import Source
from pipeline.sources.ternary import TernaryFormat, ternary_format

try:
    import torch
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module
except ImportError as error:
    raise MissingPackage(error.name or "transformers") from error

_SMALLEST = 1e-5  # of a scale, as in transformers
_PACKED = 4  # weights in a byte
_SCALE = "_scale"  # weight -> weight_scale
_PROJECTION = re.compile(r"\.\d+\..*_proj\.weight$")


def absmean_ternary(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix rounded to -s, 0 and s, in its type; s is the mean of its absolute values."""
    values = weight.float()
    scale = 1.0 / values.abs().mean().clamp_(min=_SMALLEST)
    return ((values * scale).round().clamp(-1, 1) / scale).to(weight.dtype)


def absmax_int8(activation: torch.Tensor) -> torch.Tensor:
    """Return activations [..., width] rounded to 8 bits, each token by the largest of its absolute values."""
    values = activation.float()
    scale = 127.0 / values.abs().amax(dim=-1, keepdim=True).clamp_(min=_SMALLEST)
    return ((values * scale).round().clamp(-128, 127) / scale).to(activation.dtype)


def latent_of(ternary: torch.Tensor) -> torch.Tensor:
    """Return latent weights that absmean_ternary rounds to `ternary`, [out, in] with the values -s, 0 and s.

    Of the three values themselves the mean is smaller than s, as some are 0: they would shrink.
    """
    share = (ternary != 0).float().mean()
    return ternary.float() / share if share else ternary.float()


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """Return -1, 0 and 1 as float32, [4 n, in], of two bits each in uint8, [n, in].

    The lowest bits are the first quarter of the rows.
    """
    parts = [(packed.view(torch.uint8) >> shift & 3).to(torch.float32) - 1 for shift in (0, 2, 4, 6)]
    return torch.cat(parts)


class TernaryTensors:
    """The Tensors of a ternary checkpoint as three values in float32; its `tensors` are `stored` otherwise.

    `modules` are the ternary linear layers, each with its tensor's name; `dropped` are the stored scales.
    """

    def __init__(self, base: Source, tensors: Tensors, stored: TernaryFormat) -> None:
        self._tensors, self._stored = tensors, stored
        self.settings: dict[str, object] = {**tensors.settings, "quantization_config": None}
        self.dropped = frozenset(name for name in tensors.shapes if name.endswith(f".weight{_SCALE}"))
        self.modules, wanted = _linear_modules(base, tensors, stored)
        self.changed = frozenset(wanted)
        self.added: frozenset[str] = frozenset()
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: self._shape(name, wanted.get(name)) for name in tensors.shapes if name not in self.dropped
        }

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor; a linear weight as its three values in float32."""
        value = self._tensors.read(name)
        if name not in self.changed:
            return value
        if self._stored.online:
            return absmean_ternary(value.float())
        whole = unpacked(value) if value.shape != self.shapes[name] else value.float()
        if name + _SCALE not in self._tensors.shapes:
            return whole
        scale = self._tensors.read(name + _SCALE).float()
        return whole / scale if self._stored.divided else whole * scale

    def latent(self, name: str) -> torch.Tensor:
        """Return a tensor as a training changes it: a linear weight as its latent values."""
        if name not in self.changed:
            return self._tensors.read(name)
        return self._tensors.read(name) if self._stored.online else latent_of(self.read(name))

    def use(self, name: str) -> None:
        """Do nothing: no tensor is lost that an adapter needs."""

    def finish(self) -> None:
        """Do nothing, as above."""

    def _shape(self, name: str, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
        found = self._tensors.shapes[name]
        is_packed = wanted is not None and found != wanted and found[0] * _PACKED == wanted[0]
        return (found[0] * _PACKED, *found[1:]) if is_packed else found


def base_tensors(base: Source) -> Checkpoint | TernaryTensors:
    """Return the tensors of a base as a model computes with them."""
    checkpoint, stored = Checkpoint(base.weight_files()), ternary_format(base)
    return checkpoint if stored is None else TernaryTensors(base, checkpoint, stored)


def quantize_activations(model: Any, modules: Mapping[str, Any]) -> None:
    """Have the linear layers of these names round their input to 8 bits, as a ternary model was trained."""
    for path in modules:
        model.get_submodule(path).register_forward_pre_hook(lambda _, inputs: (absmax_int8(inputs[0]),))


def load_ternary(base: Source, tensors: TernaryTensors, *, latent: bool = False) -> Any:
    """Load a ternary base in float32 with ordinary linear layers, of three values or of `latent` ones."""
    shape = build_base(base, tensors.settings)
    read = tensors.latent if latent else tensors.read
    state = {name: read(name).float() for name in tensors.shapes}
    return type(shape).from_pretrained(None, config=shape.config, state_dict=state, dtype=torch.float32)


def _linear_modules(
    base: Source, tensors: Tensors, stored: TernaryFormat
) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the ternary modules, each with its tensor's name, and the shapes of those tensors' values."""
    if missing_class(base) is not None:
        names = [name for name in tensors.shapes if _PROJECTION.search(name)]
        packed = {name: (tensors.shapes[name][0] * _PACKED, *tensors.shapes[name][1:]) for name in names}
        shapes = tensors.shapes if stored.online else packed
        return {name.removesuffix(".weight"): name for name in names}, {name: shapes[name] for name in names}
    model = build_base(base, {})
    parameters = Parameters(model, tensors)
    kept = get_keys_to_not_convert(model) if stored.kept is None else list(stored.kept)
    linear = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and should_convert_module(path, kept)
    }
    found = dict(_stored_names(base, linear, parameters))
    return found, {name: tuple(linear[path].weight.shape) for path, name in found.items()}


def _stored_names(
    base: Source, linear: Mapping[str, torch.nn.Linear], parameters: Parameters
) -> Iterator[tuple[str, str]]:
    for path in linear:
        names = parameters.names(f"{path}.weight") if f"{path}.weight" in parameters else []
        if len(names) != 1:
            raise InputError(
                f"the base model {base.spec!r} has no tensor {path}.weight, which its config.json counts "
                "among the ternary ones: download it again, or list it in modules_to_not_convert"
            )
        yield path, names[0]
