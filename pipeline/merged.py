"""The tensors of base and adapters together, merged one after another."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.adapter import Adapter
from pipeline.checkpoint import Checkpoint, Tensors
from pipeline.merge import Merger
from pipeline.source import Source


def merge_in_sequence(base: Source, adapters: Sequence[Adapter]) -> Merger:
    """Each adapter merged into what the ones before it left; raises InputError for what does not fit."""
    tensors: Tensors = Checkpoint(base.weights())
    for adapter in adapters:
        tensors = Merger(base, tensors, adapter)
    assert isinstance(tensors, Merger)
    return tensors
