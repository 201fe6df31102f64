"""One of PEFT's layers, merged on its own: base weights in, merged weights out, nothing kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.meta_model import base_module, set_parameter, suppress_warnings, tuned_modules
from pipeline.sources.adapter import Adapter

try:
    import torch
    from peft.tuners.lora.layer import ParamWrapper
except ImportError as error:
    raise MissingPackage(error.name or "peft") from error


Read = Callable[[str], "torch.Tensor"]
"""The base's parameter of that name, in float32 and one's own to change."""


@dataclass(frozen=True)
class TunedLayer:
    """PEFT's layer at `path`, over those `parameters` of the base."""

    path: str
    module: Any
    parameters: tuple[str, ...]

    @property
    def tokens(self) -> set[int]:
        """The rows that the adapter brings itself (trainable tokens)."""
        indices = getattr(getattr(self.module, "token_adapter", self.module), "token_indices", {})
        return {row for rows in indices.values() for row in rows}

    def merged(self, read: Read) -> dict[str, torch.Tensor]:
        """The merged value of each parameter; the layer can be merged again afterwards."""
        base = base_module(self.module)
        try:
            for name in self.parameters:
                set_parameter(base, self._inner(name), read(name))
            tuned = _merge(self.module)
            return {name: tuned.get_parameter(self._inner(name)).data for name in self.parameters}
        # What PEFT's layers raise where they cannot merge: a singular matrix, a missing bias, ...
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise InputError(f"PEFT cannot merge the adapter's {self.path}: {error}") from None
        finally:
            for name in self.parameters:
                set_parameter(base, self._inner(name), torch.empty(0))
            for part in self.module.modules():
                if getattr(part, "merged_adapters", None):
                    part.merged_adapters.clear()

    def _inner(self, parameter: str) -> str:
        return parameter.removeprefix(f"{self.path}.")


def tuned_layers(wrapped: Any, shapes: Mapping[str, tuple[int, ...]], adapter: Adapter) -> list[TunedLayer]:
    """All of PEFT's layers in a model, scaled by the adapter's weight; raises InputError if none can be."""
    layers = []
    for path, module in tuned_modules(wrapped).items():
        for part, names in _parts(module):
            inside = [name for name in shapes if name.startswith(f"{path}.")]
            parameters = inside if names is None else [f"{path}.{name}" for name in names]
            _check_bias(part, path, parameters, adapter)
            _scale(part, path, adapter)
            layers.append(TunedLayer(path, part, tuple(parameters)))
    return layers


def _parts(module: Any) -> Iterator[tuple[Any, list[str] | None]]:
    """PEFT nests one layer in another for each bare parameter of a module (target_parameters)."""
    if not isinstance(module, ParamWrapper):
        yield module, None
    while isinstance(module, ParamWrapper):
        yield module, [module.parameter_name]
        module = module.base_layer


def _merge(module: Any) -> Any:
    """What PEFT's merge_and_unload does with one layer; returns the base's module."""
    with suppress_warnings():
        if hasattr(module, "unload_and_optionally_merge_module") and not isinstance(module, ParamWrapper):
            return module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        module.merge()
        return module.get_base_layer()


def _check_bias(module: Any, path: str, parameters: list[str], adapter: Adapter) -> None:
    if any(getattr(module, "lora_bias", {}).values()) and f"{path}.bias" not in parameters:
        raise InputError(
            f"the adapter {adapter.spec!r} has a bias on its update of {path} (lora_bias), and the base's "
            "layer has none: neither PEFT nor this export can merge it; train with lora_bias=False"
        )


def _scale(module: Any, path: str, adapter: Adapter) -> None:
    if adapter.weight == 1.0:
        return
    if not hasattr(module, "scale_layer"):
        raise InputError(
            f"--adapter {adapter.spec}={adapter.weight:g}: {adapter.kind} on {path} has no scale: "
            "leave its weight away"
        )
    module.scale_layer(adapter.weight)
