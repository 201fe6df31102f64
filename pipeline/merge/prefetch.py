"""MergePrefetcher: merge the next tensor in a thread while the converter writes the previous one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.merge.nf4 import RoundedBase
    from pipeline.merge.tensor_merger import TensorMerger
    from pipeline.merge.ternary import TernaryTensors


class MergePrefetcher:
    """Runs a TensorMerger one tensor ahead of its caller. At most two merged tensors are in memory."""

    def __init__(self, merger: TensorMerger | RoundedBase | TernaryTensors) -> None:
        self._merger = merger
        self._expected: dict[str, None] = {}  # in the order in which the converter takes them
        self._started: dict[str, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, "merge")

    def expect(self, name: str) -> None:
        """Announce that the merged `name` will be taken."""
        self._expected[name] = None

    def take(self, name: str) -> Any:
        """Return the merged tensor, once, and start merging the next expected one."""
        self._merger.use(name)  # not in the thread: a started tensor may never be taken
        merged = self._start(name)
        del self._started[name]
        following = next(iter(self._expected), None)
        if following is not None:
            self._start(following)
        return merged.result()

    def _start(self, name: str) -> Future[Any]:
        if name not in self._started:
            del self._expected[name]
            self._started[name] = self._thread.submit(self._merge, name)
        return self._started[name]

    def _merge(self, name: str) -> Any:
        import torch

        with torch.inference_mode():  # it applies per thread
            return self._merger.read(name).float()
