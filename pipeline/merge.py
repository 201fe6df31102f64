"""One base tensor in, one merged tensor out, by PEFT's own layer code.

The base model is built on the `meta` device, where it takes no memory, and PEFT puts its layers
into it. To merge a module, its base weight is filled in alone, PEFT's own `merge` is called on that
layer in float32, and the weight is taken out again. Every adapter tensor is used exactly once:
`finish` raises when one was left over.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pipeline.adapter import WEIGHTS, Adapter
from pipeline.errors import InputError, MissingPackage
from pipeline.source import Source, TensorInfo, tensors_of

try:
    import torch
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as error:
    raise MissingPackage(error.name or "peft") from error

if TYPE_CHECKING:
    from peft.tuners.lora.layer import Linear

PEFT_PREFIX = "base_model.model."


class Merger:
    """Merges an adapter into its base, one tensor at a time.

    `targets` are the names of the base's tensors that the adapter changes.
    """

    def __init__(self, base: Source, adapter: Adapter) -> None:
        self._spec = adapter.source.spec
        model = _build_on_meta(base, adapter)
        _check_names(model, adapter)
        layers = {
            name.removeprefix(PEFT_PREFIX) + ".weight": module
            for name, module in model.named_modules()
            if isinstance(module, LoraLayer)
        }
        _check_targets(layers, tensors_of(base), adapter)
        _load_adapter(model, list(layers.values()), adapter)
        self._waiting: dict[str, Linear] = layers
        self.targets = frozenset(layers)

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight `name` in float32, of the shape of `weight` (out_features, in_features)."""
        layer = self._waiting.pop(name)  # a second merge of one tensor would be a bug of the converter's
        base = layer.get_base_layer()
        base.weight = torch.nn.Parameter(weight.to(torch.float32, copy=True), requires_grad=False)
        layer.merge()
        merged: torch.Tensor = base.weight.data
        # PEFT's safe_merge looks at every number, which takes longer than the merge; one sum sees them all.
        if not torch.isfinite(merged.sum()):
            raise InputError(
                f"the adapter {self._spec!r} makes {name} infinite or not a number: it is damaged"
            )
        return merged

    def finish(self) -> None:
        """Check that nothing of the adapter was left out; raises InputError that names what was."""
        if self._waiting:
            raise InputError(
                f"the adapter {self._spec!r} changes {next(iter(self._waiting))} "
                f"and {len(self._waiting) - 1} more tensors that the converter leaves out of the GGUF: "
                "its tuning would be lost"
            )


def _build_on_meta(base: Source, adapter: Adapter) -> PeftModel:
    config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"the base model {base.spec!r} is quantized, and a merge needs full precision: "
            "give the unquantized model that it was made from"
        )
    peft_config = PeftConfig.from_pretrained(str(adapter.folder))
    peft_config.inference_mode = True
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT and transformers warn of what is checked here
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        try:
            return PeftModel(model, peft_config, low_cpu_mem_usage=True)
        except ValueError as error:
            raise InputError(
                f"the adapter {adapter.source.spec!r} does not fit the base model {base.spec!r}: {error}"
            ) from None


def _check_names(model: PeftModel, adapter: Adapter) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {
            name: tuple(tensor.shape)
            for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
        }
    spec = adapter.source.spec
    for name, info in adapter.tensors.items():
        if name not in wanted:
            raise InputError(
                f"the adapter {spec!r} has the tensor {name}, which its configuration does not use "
                "on this base: it would be lost in the merge"
            )
        if info.shape != wanted[name]:
            raise InputError(
                f"the adapter {spec!r} was made for another base: {name} has the shape {list(info.shape)}, "
                f"this base needs {list(wanted[name])}"
            )
    missing = sorted(wanted.keys() - adapter.tensors.keys())
    if missing:
        raise InputError(
            f"the adapter {spec!r} lacks {len(missing)} tensors that its configuration names, "
            f"{missing[0]} first: it was made for another base, or its file is incomplete"
        )


def _check_targets(layers: dict[str, Linear], checkpoint: dict[str, TensorInfo], adapter: Adapter) -> None:
    for name, layer in layers.items():
        if not isinstance(layer.get_base_layer(), torch.nn.Linear):
            kind = type(layer.get_base_layer()).__name__
            raise InputError(
                f"the adapter {adapter.source.spec!r} changes {name}, a {kind}: only linear layers are merged"
            )
        if name not in checkpoint:
            raise InputError(
                f"the adapter {adapter.source.spec!r} changes {name}, which the base's checkpoint "
                "does not hold under that name (a tied or renamed tensor): merge it with PEFT and export "
                "the result"
            )


def _load_adapter(model: PeftModel, layers: list[Linear], adapter: Adapter) -> None:
    # PEFT moves an adapter to the device and dtype of its base weight. An empty float32 weight on the
    # CPU keeps the adapter off the meta device, where a merge would silently do nothing.
    for layer in layers:
        layer.get_base_layer().weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
    state = load_file(adapter.folder / WEIGHTS)
    result = set_peft_model_state_dict(model, state, low_cpu_mem_usage=True)
    assert not result.unexpected_keys, result.unexpected_keys
