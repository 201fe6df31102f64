"""Merge a single PEFT layer: base weights in, merged weights out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.meta_model import base_module, set_parameter, suppress_warnings, tuned_modules
from pipeline.sources.adapter import Adapter
from pipeline.sources.reading import reading

try:
    import torch
    from peft.tuners.lora.layer import ParamWrapper
except ImportError as error:
    raise MissingPackage(error.name or "peft") from error


Read = Callable[[str], "torch.Tensor"]
"""Returns the base's parameter of that name as a new float32 tensor."""


@dataclass(frozen=True)
class TunedLayer:
    """PEFT's layer at `path`, which changes the base's `parameters`."""

    path: str
    module: Any
    parameters: tuple[str, ...]

    @property
    def tokens(self) -> set[int]:
        """The embedding rows in the adapter (trainable tokens)."""
        indices = getattr(getattr(self.module, "token_adapter", self.module), "token_indices", {})
        return {row for rows in indices.values() for row in rows}

    def merged(self, read: Read) -> dict[str, torch.Tensor]:
        """Return the merged value of each parameter. Raises InputError where PEFT cannot merge."""
        base = base_module(self.module)
        what = f"PEFT cannot merge the adapter's {self.path}"
        try:
            # PEFT's layers raise where they cannot merge: a singular matrix, a missing bias, ...
            with reading(what, "save the adapter again with PEFT, or merge it with merge_and_unload"):
                for name in self.parameters:
                    set_parameter(base, self._inner(name), read(name))
                tuned = _merge(self.module)
                return {name: tuned.get_parameter(self._inner(name)).data for name in self.parameters}
        finally:
            for name in self.parameters:
                set_parameter(base, self._inner(name), torch.empty(0))
            for part in self.module.modules():
                if getattr(part, "merged_adapters", None):
                    part.merged_adapters.clear()

    def _inner(self, parameter: str) -> str:
        return parameter.removeprefix(f"{self.path}.")


def tuned_layers(wrapped: Any, shapes: Mapping[str, tuple[int, ...]], adapter: Adapter) -> list[TunedLayer]:
    """Return the PEFT layers, scaled by the adapter's weight. Raises InputError for one without scale."""
    layers = []
    for path, module in tuned_modules(wrapped).items():
        for part, names in _parts(module):
            inside = [name for name in shapes if name.startswith(f"{path}.")]
            parameters = inside if names is None else [f"{path}.{name}" for name in names]
            _check_bias(part, path, parameters, adapter)
            _apply_weight(part, path, adapter)
            layers.append(TunedLayer(path, part, tuple(parameters)))
    return layers


def _parts(module: Any) -> Iterator[tuple[Any, list[str] | None]]:
    """Yield the layers and parameters of a module; PEFT nests one per bare parameter (target_parameters)."""
    if not isinstance(module, ParamWrapper):
        yield module, None
    while isinstance(module, ParamWrapper):
        yield module, [module.parameter_name]
        module = module.base_layer


def _merge(module: Any) -> Any:
    """Merge one layer as PEFT's merge_and_unload; return the base's module."""
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


def _apply_weight(module: Any, path: str, adapter: Adapter) -> None:
    if adapter.weight == 1.0:
        return
    if not hasattr(module, "scale_layer"):
        raise InputError(
            f"--adapter {adapter.spec}={adapter.weight:g}: {adapter.kind} on {path} has no scale: "
            "leave its weight away"
        )
    module.scale_layer(adapter.weight)
