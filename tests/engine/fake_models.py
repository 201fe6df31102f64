"""Fakes for the model pool: models without weights, and an opener that logs each open and close."""

from __future__ import annotations

import threading

from engine.core.stats import EngineStats
from engine.errors import EngineStopped, ModelError
from engine.serving.model_pool import ModelPool
from engine.types import ProgressCallback


class FakeModel:
    """A model that counts how often it was closed."""

    def __init__(self, key: str, log: list[str]) -> None:
        self.key, self._log = key, log
        self.closed = 0
        self.failed = self.given_up = False

    def stats(self) -> EngineStats:
        return EngineStats(requests=1, slots=4)

    def close(self) -> None:
        self.closed += 1
        self._log.append(f"close {self.key}")


class Opener:
    """Opens fake models; keys in `broken` fail, and opening waits while `gate` is cleared."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.broken = {"nothing"}
        self.started, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, key: str, progress: ProgressCallback) -> FakeModel:
        self.log.append(f"open {key}")
        self.started.set()
        assert self.gate.wait(10)
        if not progress(0.5):
            self.log.append(f"leave {key}")
            raise EngineStopped(f"nobody waits for {key}")
        if key in self.broken:
            raise ModelError(f"{key} is broken")
        return FakeModel(key, self.log)


def settle(pool: ModelPool) -> None:
    """Wait until the pool's thread has processed all earlier calls."""
    pool.register("nothing")
    pool.acquire("nothing").backend.exception(10)
