"""The base that a QLoRA adapter was trained on: every linear weight rounded to NF4, as by bitsandbytes.

QLoRA (https://arxiv.org/abs/2305.14314) trains on a base in 4-bit NormalFloat, in blocks of 64 with doubly
quantized scales. The adapter also learns to compensate the rounding, so it fits the rounded base.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Parameters, Tensors
from pipeline.merge.meta_model import build_base
from pipeline.sources.model_source import Source

try:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
except ImportError as error:
    raise MissingPackage(error.name or "bitsandbytes") from error


_BLOCK = 64  # bitsandbytes' default, which QLoRA's recipes keep
_QUANTIZABLE = (torch.float32, torch.float16, torch.bfloat16)


class Nf4Base:
    """The Tensors of a checkpoint after loading it in 4 bits, each in its stored type."""

    def __init__(self, base: Source, tensors: Tensors) -> None:
        self._tensors = tensors
        self._transposed = _linear_weights(base, tensors)
        self.changed = frozenset(self._transposed)
        self.added: frozenset[str] = frozenset()
        self.settings: Mapping[str, object] = tensors.settings
        self.shapes: Mapping[str, tuple[int, ...]] = tensors.shapes

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor; a linear weight is rounded to NF4."""
        value = self._tensors.read(name)
        if name not in self._transposed:
            return value
        if value.dtype not in _QUANTIZABLE:
            raise InputError(f"--qlora-base nf4: {name} is stored as {value.dtype}, of which NF4 is not made")
        return _rounded(value.T.contiguous()).T if self._transposed[name] else _rounded(value)


def _rounded(weight: torch.Tensor) -> torch.Tensor:
    packed, state = quantize_4bit(weight, blocksize=_BLOCK, compress_statistics=True, quant_type="nf4")
    rounded: torch.Tensor = dequantize_4bit(packed, state)
    return rounded


def _linear_weights(base: Source, tensors: Tensors) -> dict[str, bool]:
    """Return the names of the tensors that transformers loads in 4 bits, True if it transposes them first."""
    model = build_base(base, tensors.settings)
    experts = next((name for name, value in model.named_parameters() if value.ndim > 2), None)
    if experts:
        raise InputError(
            f"--qlora-base nf4: the base model {base.spec!r} has {experts}, a mixture of experts, which "
            "versions of transformers round differently: merge it where it was trained, and export the result"
        )
    parameters, excluded = Parameters(model, tensors), set(get_keys_to_not_convert(model))
    return {
        name: isinstance(module, Conv1D)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and path not in excluded
        for name in parameters.names(f"{path}.weight")
    }
