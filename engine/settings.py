"""What can be set: how the engine runs, and how one answer is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import SettingsError


def _require(ok: bool, name: str, value: object, fix: str) -> None:
    if not ok:
        raise SettingsError(f"{name}={value!r} is out of range: {fix}")


@dataclass(frozen=True)
class SamplingSettings:
    """How one answer is sampled. A temperature of 0 is greedy; a seed of None draws a fresh one.

    `ignore_end` goes on to `max_tokens`, as benchmarks need it: the model's end tokens are never drawn.
    """

    temperature: float = 0.7
    max_tokens: int = 512
    repeat_penalty: float = 1.1
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False

    def __post_init__(self) -> None:
        _require(0.0 <= self.temperature <= 5.0, "temperature", self.temperature, "use 0 to 5")
        _require(1 <= self.max_tokens <= 1_000_000, "max_tokens", self.max_tokens, "use 1 or more")
        _require(0.5 <= self.repeat_penalty <= 3.0, "repeat_penalty", self.repeat_penalty, "use 0.5 to 3")
        _require(0.0 < self.top_p <= 1.0, "top_p", self.top_p, "use more than 0 and at most 1")
        _require(0 <= self.top_k <= 100_000, "top_k", self.top_k, "use 0 (off) or more")
        _require(0.0 <= self.min_p <= 1.0, "min_p", self.min_p, "use 0 to 1")
        _require(self.seed is None or 0 <= self.seed < 2**32, "seed", self.seed, "use 0 to 4294967295")
        _require(all(self.stop), "stop", self.stop, "a stop string cannot be empty")


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs: sizes in tokens, times in seconds.

    `context` is what one conversation may hold; `slots` conversations are decoded at once.
    `threads` of None means the physical cores that the container's CPU quota grants.
    """

    context: int = 4096
    slots: int = 4
    queue: int = 32
    threads: int | None = None
    batch: int = 512
    use_extra_buffers: bool = True

    def __post_init__(self) -> None:
        _require(self.context >= 64, "context", self.context, "use 64 or more tokens")
        _require(1 <= self.slots <= 64, "slots", self.slots, "use 1 to 64")
        _require(self.queue >= 0, "queue", self.queue, "use 0 or more")
        _require(self.threads is None or self.threads >= 1, "threads", self.threads, "use 1 or more")
        _require(self.batch >= 32, "batch", self.batch, "use 32 or more tokens")
