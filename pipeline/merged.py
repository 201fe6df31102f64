"""The tensors of base and adapters together, merged one after another."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.adapter import Adapter
from pipeline.checkpoint import Checkpoint, Tensors
from pipeline.merge import Merger
from pipeline.source import Source


def merge_in_sequence(base: Source, adapters: Sequence[Adapter], qlora_base: str | None = None) -> Merger:
    """Each adapter merged into what the ones before it left; raises InputError for what does not fit.

    With `qlora_base` "nf4" the first is merged into the base as a model loaded in 4 bits has it.
    """
    tensors: Tensors = Checkpoint(base.weights())
    if qlora_base == "nf4":
        from pipeline.nf4 import Nf4Base

        tensors = Nf4Base(base, tensors)
    for adapter in adapters:
        tensors = Merger(base, tensors, adapter)
    assert isinstance(tensors, Merger)
    return tensors
