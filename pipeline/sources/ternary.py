"""Ternary (1.58-bit) bases: whether a checkpoint's linear weights have three values, and how they are stored.

BitNet b1.58 (https://arxiv.org/abs/2402.17764) rounds each linear weight to -s, 0 or s, where s is the mean
of the matrix's absolute values. Checkpoints store those values, or the latent weights that training changes,
or two bits a weight. transformers' quantization_config of quant_method "bitnet" says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggufio.ggml_reader import Array
from pipeline.errors import InputError
from pipeline.sources.model_source import Source, read_json, tensors_of
from pipeline.sources.safetensors_reader import SafetensorsReader
from pipeline.sources.tensor_info import TensorInfo

BLOCK = 256
"""Weights in a block of TQ1_0 and TQ2_0, which has one scale."""

_SAMPLED_ROWS = 32
_IN_LAYER = re.compile(r"\.\d+\.(?!.*(?:norm|router|gate\.weight)).*\.weight$")
_BITNETS = ("BitnetForCausalLM", "BitNetForCausalLM")
_CLASSES, _MODES = ("bitlinear", "autobitlinear"), ("offline", "online")


@dataclass(frozen=True)
class TernaryFormat:
    """How a checkpoint stores its linear weights, if not as the three values themselves.

    `online`: as latent weights, which are rounded whenever they are used. Else as whole numbers, perhaps
    packed, beside a `weight_scale` by which they are divided (`divided`) or multiplied. `kept` are patterns
    of the modules that are not ternary; None is transformers' default, the output head.
    """

    online: bool
    divided: bool = False
    kept: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Ternary:
    """A ternary base; `format` is None if it stores the three values.

    `widths` are the lengths of its matrices' rows.
    """

    format: TernaryFormat | None
    widths: Mapping[str, int]


def find_ternary(base: Source) -> Ternary | None:
    """Return what is ternary in a base; None for an ordinary one. Raises InputError as ternary_format does.

    Of stored values only a sample is looked at: the quantizer looks at all.
    """
    found = ternary_format(base)
    stored = tensors_of(base)
    widths = {name: info.shape[-1] for name, info in stored.items() if is_layer_weight(name, info)}
    if found is not None:
        return Ternary(found, widths)
    return Ternary(None, widths) if not_ternary(base) is None else None


def ternary_format(base: Source) -> TernaryFormat | None:
    """Return how config.json says that the ternary weights are stored; None if it says nothing.

    Raises InputError for what llama.cpp cannot compute, or what is unknown.
    """
    path = base.folder / "config.json"
    config = read_json(path, f"the base model {base.spec!r}")
    is_bitnet = any(name in _BITNETS for name in config.get("architectures") or ())
    options = config.get("quantization_config")
    if not isinstance(options, dict) or options.get("quant_method") != "bitnet":
        latent = is_bitnet and not options and not_ternary(base) is not None
        return TernaryFormat(online=True) if latent else None  # what llama.cpp's converter takes them for
    layer, mode = options.get("linear_class", "bitlinear"), options.get("quantization_mode", "offline")
    for key, value, allowed in (("linear_class", layer, _CLASSES), ("quantization_mode", mode, _MODES)):
        if value not in allowed:
            raise InputError(
                f"{path} has {key} = {str(value)[:80]!r} in its quantization_config: "
                f"use {' or '.join(allowed)}"
            )
    if options.get("use_rms_norm"):
        raise InputError(
            f"{path} has use_rms_norm, a norm before each linear layer, which llama.cpp does not compute: "
            "give a model that was trained without it"
        )
    kept = options.get("modules_to_not_convert")
    if kept is not None and not (isinstance(kept, list) and all(isinstance(one, str) for one in kept)):
        raise InputError(f"{path} has modules_to_not_convert = {str(kept)[:80]!r}: give a list of names")
    # BitLinear of transformers is always offline
    return TernaryFormat(
        layer == "autobitlinear" and mode == "online",
        layer == "bitlinear",
        None if kept is None else tuple(kept),
    )


def online_config(kept: Sequence[str]) -> dict[str, Any]:
    """Return transformers' quantization_config for latent weights; the modules `kept` are not ternary."""
    return {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "modules_to_not_convert": list(kept),
    }


def not_ternary(base: Source) -> str | None:
    """Return a phrase about the first weight that has more than three values; None if all are ternary."""
    reader, stored = SafetensorsReader(base.weight_files()), tensors_of(base)
    seen = False
    for name, info in stored.items():
        if not is_layer_weight(name, info):
            continue
        if name not in reader.tensors:
            return f"{name} is stored as {info.dtype}"
        rows = reader.sample_rows(name, _SAMPLED_ROWS)
        if not is_ternary(rows):
            return f"{name} has {len(np.unique(rows))} values in {len(rows)} rows"
        seen = seen or bool(rows.any())
    return None if seen else "it has no weights other than 0 in numbered layers"


def is_layer_weight(name: str, info: TensorInfo) -> bool:
    """Return whether it is the weight of a matrix in a numbered layer, and neither a norm nor a router."""
    return len(info.shape) > 1 and _IN_LAYER.search(name) is not None


def is_ternary(rows: Array) -> bool:
    """Return whether each block of a row, [rows, width], has no values but 0, s and -s, its own s."""
    width = rows.shape[-1]
    blocks = np.abs(rows).reshape(-1, BLOCK if width % BLOCK == 0 else width)
    largest = blocks.max(axis=1, keepdims=True)
    return bool(((blocks == 0) | (blocks == largest)).all())


def reject_merge(base: Source) -> None:
    """Raise InputError for a base that does not store the weights with which it computes."""
    if ternary_format(base) is not None:
        raise InputError(
            f"the base model {base.spec!r} is a BitNet, whose weights have three values: a merge ends that, "
            "or the adapter's changes would be lost; keep the adapter apart with --format adapter"
        )


def reject_wrong_activation(base: Source) -> None:
    """Raise InputError for a BitNet whose activation is not SiLU, the one that llama.cpp computes for it."""
    path = base.folder / "config.json"
    config: dict[str, Any] = read_json(path, f"the base model {base.spec!r}")
    if not any(name in _BITNETS for name in config.get("architectures") or ()):
        return
    # transformers' default of the class BitNetForCausalLM is relu2
    default = "silu" if config.get("model_type") != "bitnet" else "relu2"
    activation = config.get("hidden_act", default)
    if activation != "silu":
        raise InputError(
            f"{path} has hidden_act = {str(activation)[:80]!r}, and llama.cpp computes every BitNet with "
            "silu, which is another model: use a ternary Llama such as Falcon-E, or Microsoft's bitnet.cpp"
        )
