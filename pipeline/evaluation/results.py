"""The row of a table of results: a model's losses summarized, and compared with the base's."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.config import Kind, Measured, ModelResult
from pipeline.evaluation.statistics import RowLoss, compare, group_by_category, summarize


def model_result(
    name: str,
    kind: Kind,
    losses: Sequence[RowLoss],
    base: Sequence[RowLoss] | None = None,
    size: int | None = None,
) -> ModelResult:
    """Return a model's row; `base` are the base's losses, with which those of another model are compared."""
    other = None if kind == "base" else base
    others = group_by_category(other or ())
    categories = {
        name: _measured(group, others.get(name)) for name, group in group_by_category(losses).items()
    }
    whole = _measured(losses, other)
    return ModelResult(name, kind, tuple(losses), whole.summary, whole.paired, categories, size)


def _measured(losses: Sequence[RowLoss], base: Sequence[RowLoss] | None) -> Measured:
    return Measured(summarize(losses), compare(base, losses) if base is not None else None)
