"""What the engine has done so far, all requests together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from engine.types import FinishReason, RequestStats


@dataclass
class Counters:
    """Totals since the start, as the engine's thread counts them: tokens, requests, sums of seconds.

    They outlive an engine that had to be built again. `occupied` sums, over the `steps`, how many sequences
    each one computed, `offered` how many it had slots for. `busy_seconds` is the time in steps, and
    `model_seconds` the part of it that llama.cpp spent computing and sampling.
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
        """Count a request that ended."""
        self.requests += 1
        self.cancelled += reason == "cancelled"
        self.overdue += reason == "time"
        self.queue_seconds += stats.queue_seconds
        self.prefill_seconds += stats.prefill_seconds
        self.decode_seconds += stats.decode_seconds

    def snapshot(self, *, slots: int, running: int, waiting: int, saved_bytes: int) -> EngineStats:
        """The totals together with what is going on now; from any thread."""
        return EngineStats(
            slots=slots, running=running, waiting=waiting, saved_bytes=saved_bytes, **asdict(self)
        )


@dataclass
class EngineStats(Counters):
    """A snapshot: the totals, and what is going on now."""

    slots: int = 0
    running: int = 0
    waiting: int = 0
    saved_bytes: int = 0

    @property
    def occupancy(self) -> float:
        """The mean share of the slots that a step computed, 0 to 1."""
        return self.occupied / self.offered if self.offered else 0.0

    @property
    def python_share(self) -> float:
        """The share of a step's time that is not the model's, 0 to 1."""
        return 1 - self.model_seconds / self.busy_seconds if self.busy_seconds > 0 else 0.0

    @property
    def acceptance(self) -> float:
        """The share of the drafted tokens that were right, 0 to 1."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0


def total(parts: Sequence[EngineStats]) -> EngineStats:
    """Several engines' numbers as one's."""
    names = [item.name for item in fields(EngineStats)]
    return EngineStats(**{name: sum(getattr(part, name) for part in parts) for name in names})


def at_rest(stats: EngineStats) -> EngineStats:
    """The totals of an engine that is gone: nothing is going on in it any more."""
    return replace(stats, slots=0, running=0, waiting=0, saved_bytes=0)
