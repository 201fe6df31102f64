"""Memory and file descriptors of processes over time, and whether they are flat."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

_SECONDS = 0.25
_WARM_UP = 0.1  # of the run: caches fill up and every thread allocates its memory
_FLAT = 1.05


@dataclass
class Usage:
    """Samples of one process: resident bytes, and the number of open file descriptors."""

    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    @property
    def thirds(self) -> tuple[float, float]:
        """Return the mean resident bytes of the first and of the last third, after the warm-up."""
        first, last = _thirds(self.memory)
        return statistics.fmean(first), statistics.fmean(last)

    @property
    def growth(self) -> float:
        """Return the memory of the last third over that of the first; 1 means no growth."""
        first, last = self.thirds
        return last / first

    @property
    def more_descriptors(self) -> int:
        """Return by how many the most descriptors of the last third exceed those of the first."""
        first, last = _thirds(self.descriptors)
        return max(last) - max(first)

    @property
    def is_flat(self) -> bool:
        """Return whether the memory grew by less than 5 %, and the descriptors not at all."""
        return self.growth < _FLAT and self.more_descriptors <= 0


def _thirds(samples: list[int]) -> tuple[list[int], list[int]]:
    warm = samples[int(len(samples) * _WARM_UP) :]
    third = max(1, len(warm) // 3)
    return warm[:third], warm[-third:]


class Sampler:
    """Samples processes four times a second, in a thread, until it is closed."""

    def __init__(self, processes: Mapping[str, Callable[[], int]]) -> None:
        """`processes` return the number (pid) of each process, which may be started again."""
        self._processes = processes
        self.usages = {name: Usage() for name in processes}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for name, number in self._processes.items():
                with suppress(psutil.NoSuchProcess):  # it is started again just now
                    process = psutil.Process(number())
                    self.usages[name].memory.append(process.memory_info().rss)
                    self.usages[name].descriptors.append(process.num_fds())
            if self._closed.wait(_SECONDS):
                return
