"""The base model on PyTorch's `meta` device, where it takes no memory, with PEFT's layers injected.

PEFT moves an adapter to the device and type of its base weight, and a merge on `meta` silently does nothing.
So the base weights under PEFT's layers are empty float32 tensors on the CPU until they are merged.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import MissingPackage
from common.text import first_line, pluralize
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint
from pipeline.sources.adapter import PEFT_PREFIX, Adapter
from pipeline.sources.model_source import Source, read_json
from pipeline.sources.reading import blamed_key, reading, reason, shown
from pipeline.sources.ternary import ternary_format

try:
    import peft
    import torch
    from packaging.version import Version
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as error:
    raise MissingPackage(error.name or "peft") from error


def build_base(base: Source, settings: Mapping[str, object]) -> Any:
    """Build the base model without weights, its configuration changed by `settings`. Raises InputError."""
    try:
        config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise InputError(
            f"transformers cannot build the base model {base.spec!r}: {first_line(error)}; merge the "
            "adapter where the model's own code runs, save the model, and export that with --base"
        ) from None
    except Exception as error:
        raise InputError(_invalid_base(base, error)) from error
    if ternary_format(base) is not None and hasattr(config, "quantization_config"):
        del config.quantization_config  # its tensors are read as full precision (pipeline.merge.ternary)
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"the base model {base.spec!r} is quantized, and a merge needs full precision: "
            "give the unquantized model that it was made from"
        )
    for key, value in settings.items():
        setattr(config.get_text_config(), key, value)
        setattr(config, key, value)
    with reading("", "", lambda error: _invalid_base(base, error)):
        return _without_weights(config)


def linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """Return the linear layers by name, without the output head: what PEFT calls all-linear."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def _without_weights(config: Any) -> Any:
    with torch.device("meta"), suppress_warnings():
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _invalid_base(base: Source, error: BaseException) -> str:
    path = base.folder / "config.json"
    config = read_json(path, f"the base model {base.spec!r}")
    key = blamed_key(config, _build_from)
    return (
        f"{path} describes no model that transformers can build "
        f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): download it again, or correct "
        + (f"{key} = {shown(config[key])}" if key else "it")
    )


def _build_from(config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        _without_weights(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def inject_adapter(model: Any, adapter: Adapter) -> Any:
    """Inject PEFT's layers for `adapter`, without weights, into `model`. Raises InputError."""
    with reading("", "", lambda error: _misfit(model.config, adapter, error)):
        return _injected(model, adapter.config, adapter)


def _injected(model: Any, options: dict[str, Any], adapter: Adapter) -> Any:
    with suppress_warnings():
        config = peft_config(options, adapter)
        config.inference_mode = True
        return PeftModel(model, config, low_cpu_mem_usage=True)


def _misfit(base_config: Any, adapter: Adapter, error: BaseException) -> str:
    """Return the message for an adapter that PEFT refuses, with the key of adapter_config.json at fault."""
    key = blamed_key(
        adapter.config, lambda options: _injected(_without_weights(base_config), options, adapter)
    )
    at_fault = f"{key} = {shown(adapter.config[key])} in its adapter_config.json, " if key else ""
    return (
        f"the adapter {adapter.spec!r} does not fit the base model: {at_fault}{reason(error)}; "
        "save the adapter again with PEFT, or give the base that it was trained on"
    )


def peft_config(options: dict[str, Any], adapter: Adapter) -> Any:
    """Return PEFT's configuration object. Raises InputError for an option of a newer PEFT."""
    # As PeftConfig.from_pretrained, without the keys whose value is null.
    config = PeftConfig.from_peft_type(**PeftConfig.check_kwargs(**options))
    _check_version(config, adapter)
    return config


def _check_version(config: Any, adapter: Adapter) -> None:
    """Raise InputError for unknown options of a newer PEFT, which PEFT would ignore."""
    unknown = [name for name, value in adapter.config.items() if value and not hasattr(config, name)]
    written_by = str(adapter.config.get("peft_version") or "0")
    if unknown and Version(written_by.partition("@")[0]) > Version(peft.__version__):
        raise InputError(
            f"the adapter {adapter.spec!r} was saved by PEFT {written_by} with the option {unknown[0]}, "
            f"which PEFT {peft.__version__} does not know: install PEFT {written_by} or newer"
        )


def tuned_modules(wrapped: Any) -> dict[str, Any]:
    """Return PEFT's layers by their path in the base model, without layers inside other layers."""
    found: dict[str, Any] = {}
    last = " "
    for name, module in wrapped.base_model.model.named_modules():  # submodules directly follow their module
        if isinstance(module, BaseTunerLayer | TrainableTokensWrapper) and not name.startswith(f"{last}."):
            found[name], last = module, name
    return found


def base_module(module: Any) -> Any:
    """Return the base's module inside one of PEFT's."""
    if isinstance(module, TrainableTokensWrapper):
        return module.original_module
    return module.get_base_layer()


class AdapterWeights:
    """The tensors of an adapter's file, loaded into PEFT's layers, and whole parameters of the base.

    `replaced` maps a parameter of the base to the adapter's tensor that replaces it: modules_to_save,
    trained biases, resized embeddings. Those in `separate` (modules_to_save) do not change a tied parameter.
    """

    def __init__(self, wrapped: Any, adapter: Adapter, shapes: dict[str, tuple[int, ...]]) -> None:
        self._file = Checkpoint([adapter.weights_file])
        self._shapes = {
            name: shape for name, shape in self._file.shapes.items() if not self._is_duplicate(name)
        }
        saved = {
            f"{name}."
            for name, module in wrapped.base_model.model.named_modules()
            if isinstance(module, ModulesToSaveWrapper)
        }
        self.replaced: dict[str, str] = {}
        for name in self._shapes:
            parameter = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
            if parameter in shapes:
                self.replaced[parameter] = name
        self.separate = {parameter for parameter in self.replaced if parameter.startswith(tuple(saved))}
        self._spec, self._kind = adapter.spec, adapter.kind
        if self.replaced and adapter.weight != 1.0:
            raise InputError(
                f"--adapter {self._spec}={adapter.weight:g}: it brings {next(iter(self.replaced))} whole "
                "(modules_to_save, trained biases, resized embeddings), without a scale: leave its weight out"
            )
        self._load(wrapped, shapes)

    def read(self, parameter: str) -> torch.Tensor:
        """Return the tensor that replaces a parameter of the base, in float32."""
        return self._file.read(self.replaced[parameter]).to(torch.float32, copy=True)

    def _is_duplicate(self, name: str) -> bool:
        # For a resized embedding that was fully trained, PEFT also saves both modules of its wrapper.
        owner, _, leaf = name.rpartition(".")
        for part in (".modules_to_save", ".original_module"):
            if owner.endswith(part) and f"{owner.removesuffix(part)}.{leaf}" in self._file.shapes:
                return True
        return False

    def _load(self, wrapped: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        saved = {self.replaced[parameter] for parameter in self.separate}
        state = {
            # whole modules are read when they are merged
            name: torch.empty(shape, device="meta") if name in saved else _as_float(self._file.read(name))
            for name, shape in self._shapes.items()
            if name in saved or name not in self.replaced.values()
        }
        state = convert_peft_adapter_state_dict_for_transformers(
            wrapped, wrapped.peft_config["default"], state
        )
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        found |= {PEFT_PREFIX + parameter: self._shapes[name] for parameter, name in self.replaced.items()}
        self._check_shapes(
            found, _wanted(wrapped), {PEFT_PREFIX + name: shape for name, shape in shapes.items()}
        )
        for path, module in tuned_modules(wrapped).items():
            empty_base(path, module, shapes)
        try:
            result = set_peft_model_state_dict(wrapped, state, low_cpu_mem_usage=True)
        except NotImplementedError:  # PEFT tried to move a tensor that has no values
            raise self._missing_values_error("a part") from None
        assert not result.unexpected_keys, result.unexpected_keys
        for path, module in tuned_modules(wrapped).items():
            self._check_filled(path, module)

    def _check_filled(self, path: str, module: Any) -> None:
        # AdaLoRA does not save its rank: it is always the configuration's.
        for name, rank in getattr(module, "ranknum", {}).items():
            module.ranknum[name] = torch.nn.Parameter(torch.full_like(rank, module.r[name], device="cpu"))
        empty = [name for name, value in module.state_dict().items() if value.is_meta]
        if empty:
            raise self._missing_values_error(f"{path}.{empty[0]}")

    def _missing_values_error(self, part: str) -> InputError:
        return InputError(
            f"the adapter {self._spec!r} ({self._kind}) keeps {part} of it out of its file, to be made anew "
            "from the base: merge it by PEFT's merge_and_unload, save the model, and export that with --base"
        )

    def _check_shapes(
        self,
        found: dict[str, tuple[int, ...]],
        wanted: dict[str, tuple[int, ...]],
        base: dict[str, tuple[int, ...]],
    ) -> None:
        for name, shape in found.items():
            expected = wanted.get(name) or base.get(name)
            if expected is None:
                raise InputError(
                    f"the adapter {self._spec!r} has the tensor {name}, which its configuration does not use "
                    "on this base: it would be lost in the merge"
                )
            if shape != expected:
                self._reject_other_rank(name, shape, expected)
                raise InputError(
                    f"the adapter {self._spec!r} was made for another base: {name} has the shape "
                    f"{list(shape)}, this base needs {list(expected)}"
                )
        missing = sorted(wanted.keys() - found.keys())
        if missing:
            raise InputError(
                f"the adapter {self._spec!r} lacks "
                f"{pluralize(len(missing), 'tensor')} that its configuration "
                f"names, {missing[0]} first: it was made for another base, or its file is incomplete"
            )

    def _reject_other_rank(self, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        """Raise InputError for a LoRA matrix that fits the base, but not its configuration's rank."""
        axis = {"lora_A": 0, "lora_B": 1}.get(name.removesuffix(".weight").rpartition(".")[2])
        if axis is None or len(shape) != 2 or shape[1 - axis] != expected[1 - axis]:
            return
        raise InputError(
            f"the adapter {self._spec!r} has {name} of rank {shape[axis]}, and r (or rank_pattern) in its "
            f"adapter_config.json gives {expected[axis]}: save the adapter again with PEFT, or correct it"
        )


def empty_base(path: str, module: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Remove the base's weights from one of PEFT's layers."""
    base = base_module(module)
    for name in shapes:
        if name.startswith(f"{path}."):
            set_parameter(base, name.removeprefix(f"{path}."), torch.empty(0))
    originals = getattr(getattr(module, "token_adapter", module), "trainable_tokens_original", {})
    for name in list(originals):  # the rows before training, which a merge does not need
        originals[name] = torch.empty(0)


def set_parameter(module: Any, name: str, value: torch.Tensor) -> None:
    """Set a module's parameter, of any shape."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))


def _wanted(wrapped: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that PEFT would save; the base's parameters have the base's names."""
    with suppress_warnings():
        state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name.replace(".base_layer.bias", ".bias"): tuple(tensor.shape) for name, tensor in state.items()}


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress warnings of PEFT and transformers about things that are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
