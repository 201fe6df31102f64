"""The memory that a training needs, reckoned from the model's shapes before anything is loaded."""

from __future__ import annotations

from typing import Any

from common.system import free_memory
from pipeline.errors import InputError
from pipeline.sources.model_source import Source
from pipeline.training.config import FinetuneConfig

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_TRAINED = {"adamw": 16, "adamw-8bit": 10}
"""Bytes of a trained weight: itself, its gradient and AdamW's two moments, each float32 (or 8 bits)."""

_PAGED = 8
"""The same without the moments, which a paged optimizer may move out of the GPU's memory."""

TYPICAL_TOKENS = 256
"""The length of a row, where it is not known."""

_FOUR_BITS = 0.516
"""Bytes of a weight in NF4 with double quantization: 4 bits, and 8.125 bits for each 64."""

_ACTIVATIONS = 34
"""Bytes of activations that a layer keeps for the backward pass, for each token and unit of the hidden size
in 16 bits, without the attention's matrix (Korthikanti et al., https://arxiv.org/abs/2205.05198)."""


def require_memory(
    config: FinetuneConfig,
    source: Source,
    shape: Any,
    frozen_type: str,
    row_tokens: int = TYPICAL_TOKENS,
    *,
    rounded: bool = False,
) -> None:
    """Raise InputError where the training needs more than the memory that is free; says both.

    `shape` is the model on the meta device, `row_tokens` the usual length of a row. A `rounded` base is kept
    beside what it was before.
    """
    free = _free(config)
    needed = needed_memory(config, shape, frozen_type, row_tokens)
    needed += _unrounded_memory(shape) if rounded else 0
    if free is not None and needed > free:
        raise InputError(
            f"training {source.spec!r} needs about {_gigabytes(needed)} and {_gigabytes(free)} are free: "
            + ("use a smaller --batch-size or base" if rounded else _way_out(config))
        )


def needed_memory(
    config: FinetuneConfig, shape: Any, frozen_type: str, row_tokens: int = TYPICAL_TOKENS
) -> int:
    """Return the bytes that weights, their optimizer and one batch's activations need, about."""
    from pipeline.merge.meta_model import linear_layers

    layers = linear_layers(shape).values()
    count = sum(int(weight.numel()) for weight in shape.parameters())
    linear = sum(int(layer.weight.numel()) for layer in layers)
    adapter = config.rank * sum(layer.in_features + layer.out_features for layer in layers)
    if config.full:
        weights = count * _TRAINED.get(config.optimizer, _PAGED)
    else:
        per_weight = _FOUR_BITS if config.qlora else _BYTES[frozen_type]
        weights = int(linear * per_weight) + (count - linear) * _BYTES[frozen_type]
        weights += adapter * _TRAINED.get(config.optimizer, _PAGED)
    return weights + _batch_memory(config, shape, row_tokens)


def _unrounded_memory(shape: Any) -> int:
    """Return the bytes of the weights before rounding: of linear layers in 16 bits, and of the head."""
    from pipeline.merge.meta_model import linear_layers

    linear = sum(int(layer.weight.numel()) for layer in linear_layers(shape).values())
    return 2 * linear + _BYTES["float32"] * int(shape.get_output_embeddings().weight.numel())


def _batch_memory(config: FinetuneConfig, shape: Any, row_tokens: int) -> int:
    """Return the bytes of the activations of a usual batch; one of the longest rows may need more."""
    settings = shape.config.get_text_config()
    tokens = config.batch_size * min(config.max_length, row_tokens)
    width = settings.hidden_size * (_BYTES["float32"] if config.precision == "float32" else 2)
    kept = 2 if config.checkpointing else _ACTIVATIONS // 2
    layers, logits = tokens * width * kept * settings.num_hidden_layers, tokens * settings.vocab_size * 4
    return int(layers) + int(logits)


def _free(config: FinetuneConfig) -> int | None:
    import torch

    if config.device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return free_memory(whole_cache=True)


def _way_out(config: FinetuneConfig) -> str:
    ways = []
    if not config.qlora and not config.full:
        ways.append("--qlora nf4")
    if config.full:
        ways.append("an adapter in place of --full")
    if not config.checkpointing:
        ways.append("--checkpointing")
    if config.batch_size > 1:
        ways.append("a smaller --batch-size with --accumulate")
    return f"use {' or '.join([*ways, 'a smaller base'])}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
