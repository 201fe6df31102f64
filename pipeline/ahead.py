"""Merges the next tensor in a thread of its own while the converter rounds and writes the one before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.merge import Merger


class MergeAhead:
    """A Merger that is one tensor ahead of its caller. At most two merged tensors are in memory."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self._bases: dict[str, Callable[[], Any]] = {}  # in the order in which the converter will want them
        self._started: dict[str, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, "merge")

    def expect(self, name: str, base: Callable[[], Any]) -> None:
        """Say that the merged `name` will be taken; `base` returns the base's tensor."""
        self._bases[name] = base

    def take(self, name: str) -> Any:
        """The merged tensor, once; the next one that is expected is begun."""
        merged = self._start(name)
        del self._started[name]
        following = next(iter(self._bases), None)
        if following is not None:
            self._start(following)
        return merged.result()

    def _start(self, name: str) -> Future[Any]:
        if name not in self._started:
            self._started[name] = self._thread.submit(self._merge, name, self._bases.pop(name))
        return self._started[name]

    def _merge(self, name: str, base: Callable[[], Any]) -> Any:
        import torch

        with torch.inference_mode():  # it holds for one thread
            return self._merger.merge(name, base())
