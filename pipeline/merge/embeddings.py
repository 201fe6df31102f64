"""Resized embeddings: adapters whose vocabulary has more or fewer tokens than their base's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.sources.adapter import PEFT_PREFIX, Adapter

if TYPE_CHECKING:
    import torch


def embedding_parameters(model: Any) -> dict[str, bool]:
    """Return the embeddings' parameter names, True for the input embeddings."""
    found: dict[str, bool] = {}
    for module, is_input in ((model.get_input_embeddings(), True), (model.get_output_embeddings(), False)):
        for name, other in model.named_modules(remove_duplicate=False):
            if other is module:
                found[f"{name}.weight"] = is_input
    return found


def resized_rows(model: Any, adapter: Adapter) -> int | None:
    """Return the number of embedding rows that the adapter was trained with, None when it is the base's.

    Raises InputError when its tensors contradict each other.
    """
    rows = {name: count for name, count in _rows_of(model, adapter) if count is not None}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in rows.items())
        raise InputError(f"the adapter {adapter.spec!r} has embeddings of different vocabularies ({listed})")
    base_rows = model.config.get_text_config().vocab_size
    trained = max(adapter.token_indices, default=-1) + 1
    size = next(iter(rows.values()), max(base_rows, trained))
    return None if size == base_rows else size


def _rows_of(model: Any, adapter: Adapter) -> list[tuple[str, int | None]]:
    embeddings = embedding_parameters(model)
    return [(name, _rows(name, info.shape, embeddings)) for name, info in adapter.tensors.items()]


def _rows(name: str, shape: tuple[int, ...], embeddings: dict[str, bool]) -> int | None:
    inner = name.removeprefix(PEFT_PREFIX)
    if inner.replace(".base_layer.", ".") in embeddings:
        return shape[0]
    for suffix, is_input, axis in ((".lora_embedding_A", True, 1), (".lora_B.weight", False, 0)):
        if inner.endswith(suffix) and embeddings.get(f"{inner.removesuffix(suffix)}.weight") is is_input:
            return shape[axis]
    return None


def check_added_rows(parameter: str, rows: int, base_rows: int, trained: set[int], adapter: Adapter) -> None:
    """Raise InputError when the adapter lacks rows that the base lacks too."""
    unknown = [row for row in range(base_rows, rows) if row not in trained]
    if unknown:
        raise InputError(
            f"the adapter {adapter.spec!r} was trained with {rows} tokens, the base has {base_rows}, and row "
            f"{unknown[0]} of {parameter} is in neither: save the adapter from the trained model with "
            "save_embedding_layers=True"
        )


def with_rows(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """Return `weight` [n, width] with `rows` rows: cut, or padded with zeros that the adapter replaces."""
    if weight.shape[0] >= rows:
        return weight[:rows]
    longer = weight.new_zeros(rows, *weight.shape[1:])
    longer[: weight.shape[0]] = weight
    return longer
