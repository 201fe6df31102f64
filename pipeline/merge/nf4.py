"""The base that a QLoRA adapter was trained on: every linear weight rounded to NF4, as by bitsandbytes.

QLoRA (https://arxiv.org/abs/2305.14314) trains on a base in 4-bit NormalFloat, in blocks of 64 whose scales
are usually quantized too. The adapter also learns to compensate the rounding, so it fits the rounded base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint, Parameters, Tensors
from pipeline.merge.meta_model import build_base
from pipeline.sources.model_source import Source, tensors_of
from pipeline.sources.trained_base import Nf4Rounding

try:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn.modules import Linear4bit
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
except ImportError as error:
    raise MissingPackage(error.name or "bitsandbytes") from error


_BLOCK = 64  # bitsandbytes' default, which QLoRA's recipes keep
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_HELD = {"float32": ("F32", "F16", "BF16"), "float16": ("F16",), "bfloat16": ("BF16",)}
"""safetensors' types whose values each type holds exactly."""

_WHY = "the base rounded to nf4 (--qlora-base nf4, or the adapter's training.json)"


class Nf4Base:
    """The Tensors of a checkpoint after loading it in 4 bits, each in the type in which it was loaded.

    Tensors that are not rounded are cast to that type too, as transformers does.
    """

    def __init__(self, base: Source, tensors: Tensors, rounding: Nf4Rounding) -> None:
        self._tensors, self._double_quant = tensors, rounding.double_quant
        self._dtype: torch.dtype | None = getattr(torch, rounding.dtype) if rounding.dtype else None
        compute = rounding.compute_dtype
        self._compute_dtype: torch.dtype | None = getattr(torch, compute) if compute else None
        self._transposed = _linear_weights(base, tensors)
        stored = tensors_of(base)
        cast = {name for name, info in stored.items() if _loses(info.dtype, rounding.dtype)}
        self.changed = frozenset(self._transposed) | (cast & tensors.shapes.keys())
        self.added: frozenset[str] = frozenset()
        self.settings: dict[str, object] = dict(tensors.settings)
        self.shapes: Mapping[str, tuple[int, ...]] = tensors.shapes

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor; a linear weight is rounded to NF4."""
        value = self._tensors.read(name)
        if name in self._transposed and value.dtype not in _FLOATS:
            raise InputError(f"{_WHY}: {name} is stored as {value.dtype}, of which NF4 is not made")
        if self._dtype is not None and value.dtype in _FLOATS:
            value = value.to(self._dtype)
        if name not in self._transposed:
            return value
        return self._rounded(value.T.contiguous()).T if self._transposed[name] else self._rounded(value)

    def _rounded(self, weight: torch.Tensor) -> torch.Tensor:
        packed, state = quantize_4bit(
            weight, blocksize=_BLOCK, compress_statistics=self._double_quant, quant_type="nf4"
        )
        state.dtype = self._compute_dtype or state.dtype
        rounded: torch.Tensor = dequantize_4bit(packed, state)
        return rounded


class RoundedBase(Nf4Base):
    """The rounded base without an adapter, for the converter."""

    def use(self, name: str) -> None:
        """Do nothing: no tensor is lost that an adapter needs."""

    def finish(self) -> None:
        """Do nothing, as above."""


def round_model(model: Any, base: Source, rounding: Nf4Rounding) -> None:
    """Give the parameters of a loaded model of the base the values that they have in 4 bits, in place."""
    tensors = Nf4Base(base, Checkpoint(base.weight_files()), rounding)
    parameters = Parameters(build_base(base, tensors.settings), tensors)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if tensors.changed & {*parameters.names(name)}:
                value.copy_(parameters.read(name))


def multiply_exactly(model: Any) -> None:
    """Have the 4-bit layers of a model multiply by their dequantized weights in evaluation as in training.

    On CPUs with AVX512-BF16, bitsandbytes repacks a layer's weights in its first evaluation and multiplies in
    bfloat16 from then on: other logits (by 1e-3), and no gradient for its input in a training afterwards.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _loses(stored: str, dtype: str | None) -> bool:
    """Return whether casting from safetensors' type `stored` to `dtype` may change a value."""
    return dtype in _HELD and stored not in _HELD[dtype]


def _linear_weights(base: Source, tensors: Tensors) -> dict[str, bool]:
    """Return the names of the tensors that transformers loads in 4 bits, True if it transposes them first."""
    model = build_base(base, tensors.settings)
    experts = next((name for name, value in model.named_parameters() if value.ndim > 2), None)
    if experts:
        raise InputError(
            f"{_WHY}: the base model {base.spec!r} has {experts}, a mixture of experts, which "
            "versions of transformers round differently: merge it where it was trained, and export the result"
        )
    parameters, excluded = Parameters(model, tensors), set(get_keys_to_not_convert(model))
    return {
        name: isinstance(module, Conv1D)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and path not in excluded
        for name in parameters.names(f"{path}.weight")
    }
