"""Counters of the engine, summed over all requests, and snapshots of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from engine.types import FinishReason, RequestStats


@dataclass
class Counters:
    """Totals since the start: tokens, requests, sums of seconds. Written by the engine's thread.

    They survive a restart of the engine. `occupied` sums the sequences computed in each of the `steps`, and
    `offered` the slots. `busy_seconds` is the time spent in steps, and `model_seconds` the part of it that
    llama.cpp spent computing and sampling.
    """

    requests: int = 0
    cancelled: int = 0
    overdue: int = 0
    generated_tokens: int = 0
    prefilled_tokens: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    evictions: int = 0
    saves: int = 0
    restores: int = 0
    steps: int = 0
    occupied: int = 0
    offered: int = 0
    busy_seconds: float = 0.0
    model_seconds: float = 0.0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def finished(self, reason: FinishReason, stats: RequestStats) -> None:
        """Count a finished request."""
        self.requests += 1
        self.cancelled += reason == "cancelled"
        self.overdue += reason == "time"
        self.queue_seconds += stats.queue_seconds
        self.prefill_seconds += stats.prefill_seconds
        self.decode_seconds += stats.decode_seconds

    def snapshot(self, *, slots: int, running: int, waiting: int, saved_bytes: int) -> EngineStats:
        """Return the totals with the current load. Safe from any thread."""
        return EngineStats(
            slots=slots, running=running, waiting=waiting, saved_bytes=saved_bytes, **asdict(self)
        )


@dataclass
class EngineStats(Counters):
    """A snapshot of the totals and the current load."""

    slots: int = 0
    running: int = 0
    waiting: int = 0
    saved_bytes: int = 0

    @property
    def occupancy(self) -> float:
        """Return the mean share of the slots that a step computed, 0 to 1."""
        return self.occupied / self.offered if self.offered else 0.0

    @property
    def python_share(self) -> float:
        """Return the share of a step's time that is not the model's, 0 to 1."""
        return 1 - self.model_seconds / self.busy_seconds if self.busy_seconds > 0 else 0.0


def total(parts: Sequence[EngineStats]) -> EngineStats:
    """Return the sums over several engines."""
    names = [item.name for item in fields(EngineStats)]
    return EngineStats(**{name: sum(getattr(part, name) for part in parts) for name in names})


def at_rest(stats: EngineStats) -> EngineStats:
    """Return the totals of a closed engine, without any current load."""
    return replace(stats, slots=0, running=0, waiting=0, saved_bytes=0)
