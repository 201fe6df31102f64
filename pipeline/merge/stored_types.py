"""The type in which each tensor of a merged checkpoint is stored, as transformers loads and saves it."""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Parameters, Tensors
from pipeline.merge.meta_model import build_base
from pipeline.merge.model_class import missing_class
from pipeline.merge.safetensors_writer import DTYPES, PlannedTensor
from pipeline.sources.model_source import Source, read_json, tensors_of
from pipeline.sources.tensor_info import TensorInfo

try:
    import torch
    from transformers.core_model_loading import build_glob_alternation
except ImportError as error:
    raise MissingPackage(error.name or "torch") from error

_FLOATS = {"f16": "F16", "bf16": "BF16", "f32": "F32"}
_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
FULL_NAMES = {short: full for full, short in _NAMES.items()}
"""The names of the types in config.json by those of safetensors."""
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def plan_tensors(base: Source, tensors: Tensors, outtype: str) -> tuple[dict[str, PlannedTensor], str]:
    """Return how each of `tensors` is stored, in their order, and the type of the model.

    The type is the base's with the `outtype` "auto", as transformers takes it, else that one. It holds for
    all floating-point tensors but those that the model's class keeps in float32. Raises InputError.
    """
    stored = tensors_of(base)
    dtype = _FLOATS[outtype] if outtype != "auto" else _base_dtype(base, stored)
    in_class = _types_in_class(base, tensors, dtype)
    planned = {}
    for name, shape in tensors.shapes.items():
        own = stored[name].dtype if name in stored else dtype
        if own in DTYPES and not DTYPES[own].is_floating_point:
            planned[name] = PlannedTensor(own, shape)
        else:
            planned[name] = PlannedTensor(in_class.get(name, dtype), shape)
    return planned, dtype


def _base_dtype(base: Source, stored: Mapping[str, TensorInfo]) -> str:
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    for part in (config, config.get("text_config") or {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(named := part.get(key), str):
                return _known(base, named)
    first = (info.dtype for info in stored.values() if info.dtype in ("F64", *_FLOATS.values()))
    return _known(base, next(first, "no floating-point type"))


def _known(base: Source, named: str) -> str:
    if named in FULL_NAMES:
        return named
    if named not in _NAMES:
        raise InputError(
            f"the base model {base.spec!r} is of the type {named}: give --outtype {', '.join(_FLOATS)}"
        )
    return _NAMES[named]


def _types_in_class(base: Source, tensors: Tensors, dtype: str) -> dict[str, str]:
    """Return the type of each tensor in the model's class, loaded in `dtype`: some stay in float32."""
    if missing_class(base) is not None:
        return {}
    model = build_base(base, {"dtype": DTYPES[dtype]})
    plan = list(model._get_dtype_plan(DTYPES[dtype]))
    pattern = build_glob_alternation(plan)[0] if plan else None
    parameters = Parameters(model, tensors)
    kept = {}
    for parameter, value in model.state_dict().items():
        if parameter in parameters:
            in_plan = pattern is not None and pattern.search(parameter)
            own = "F32" if in_plan else _DTYPE_NAMES.get(value.dtype, dtype)
            kept.update(dict.fromkeys(parameters.names(parameter), own))
    return kept


def as_stored(name: str, value: torch.Tensor, planned: PlannedTensor) -> torch.Tensor:
    """Return a tensor in its stored type. Raises InputError for a number that float16 cannot hold."""
    stored = value.to(DTYPES[planned.dtype])
    if planned.dtype == "F16" and value.dtype != stored.dtype:
        beyond = torch.isinf(stored) & ~torch.isinf(value)
        if bool(beyond.any()):
            largest = float(value[beyond].abs().max())
            raise InputError(f"{name} has {largest:g}, and float16 ends at 65504: give --outtype bf16 or f32")
    return stored
