"""What all ways to merge an adapter into a checkpoint have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from common.errors import MissingPackage
from common.text import and_more
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Tensors
from pipeline.sources.adapter import Adapter

try:
    import torch
except ImportError as error:
    raise MissingPackage(error.name or "torch") from error


class TensorMerger(ABC):
    """The Tensors of a base with one adapter merged in; `tensors` are the base's.

    `targets` are the names of the tensors that the adapter changes. They include `added` ones, which the
    checkpoint lacks, when tied embeddings are no longer equal.
    """

    def __init__(self, tensors: Tensors, adapter: Adapter) -> None:
        self._adapter = adapter
        self._tensors = tensors
        self.settings: dict[str, object] = dict(tensors.settings)
        self.shapes: Mapping[str, tuple[int, ...]] = tensors.shapes

    def _set_targets(self, targets: frozenset[str]) -> None:
        self.targets = targets
        self.changed = targets | self._tensors.changed
        self.added = self._tensors.added | (targets - self._tensors.shapes.keys())
        self._unused = set(self.changed)

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """Return a tensor of the merged model, in float32 if the adapter changes it."""

    def merge(self, name: str) -> torch.Tensor:
        """Return the merged tensor `name` in float32. Call it once per changed tensor."""
        self.use(name)
        return self.read(name).float()

    def use(self, name: str) -> None:
        """Record that the converter uses the merged `name`, as it must exactly once."""
        self._unused.remove(name)  # a second use is a bug, and raises KeyError

    def finish(self) -> None:
        """Raise InputError when a tensor of the adapter was not used."""
        if self._unused:
            raise InputError(
                f"the adapter {self._adapter.spec!r} needs {min(self._unused)}"
                f"{and_more(len(self._unused) - 1, 'tensor')} in the GGUF, and llama.cpp's converter leaves "
                "them out for this architecture: its tuning would be lost"
            )

    def _check_finite(self, name: str, value: torch.Tensor) -> None:
        # PEFT's safe_merge checks every number and takes longer than the merge; one sum is enough.
        if not torch.isfinite(value.sum()):
            raise InputError(
                f"the adapter {self._adapter.spec!r} makes {name} infinite or not a number: it is damaged"
            )
