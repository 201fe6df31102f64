"""EngineConfig and SamplingParams: the settings of the engine and of one answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from engine.errors import SettingsError

KvType = Literal["f16", "q8_0", "q4_0"]
Overflow = Literal["drop", "refuse"]
MAX_TOKENS = 1_000_000  # of one answer


def _require(ok: bool, name: str, value: object, fix: str) -> None:
    if not ok:
        raise SettingsError(f"{name}={value!r} is out of range: {fix}")


@dataclass(frozen=True)
class SamplingParams:
    """The sampling settings of one answer. A temperature of 0 is greedy; a seed of None draws a random one.

    The answer follows `grammar` (GBNF text) or `json_schema` (its text, or the object).
    `overflow` drops the oldest turns of a conversation that no longer fits, or refuses it.
    `ignore_end` never samples end tokens, so that the answer has `max_tokens`, for benchmarks.
    `frequency_penalty` lowers a token's logit per recent occurrence, `presence_penalty` once.
    """

    temperature: float = 0.7
    max_tokens: int = 512
    repeat_penalty: float = 1.1
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str = ""
    json_schema: str | Mapping[str, Any] | None = None
    ignore_end: bool = False
    overflow: Overflow = "drop"
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        _require(0.0 <= self.temperature <= 5.0, "temperature", self.temperature, "use 0 to 5")
        _require(1 <= self.max_tokens <= MAX_TOKENS, "max_tokens", self.max_tokens, f"use 1 to {MAX_TOKENS}")
        _require(0.5 <= self.repeat_penalty <= 3.0, "repeat_penalty", self.repeat_penalty, "use 0.5 to 3")
        _require(0.0 < self.top_p <= 1.0, "top_p", self.top_p, "use more than 0 and at most 1")
        _require(0 <= self.top_k <= 100_000, "top_k", self.top_k, "use 0 (off) or more")
        _require(0.0 <= self.min_p <= 1.0, "min_p", self.min_p, "use 0 to 1")
        _require(self.seed is None or 0 <= self.seed < 2**32, "seed", self.seed, "use 0 to 4294967295")
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            _require(-2.0 <= value <= 2.0, name, value, "use -2 to 2")
        _require(all(self.stop), "stop", self.stop, "a stop string cannot be empty")
        _require(self.overflow in get_args(Overflow), "overflow", self.overflow, "use drop or refuse")
        both = bool(self.grammar) and self.json_schema is not None
        _require(not both, "json_schema", self.json_schema, "use it or a grammar, not both")
        if self.json_schema is not None and not isinstance(self.json_schema, str):
            object.__setattr__(self, "json_schema", json.dumps(self.json_schema))  # settings stay hashable

    @property
    def penalizes(self) -> bool:
        """Return whether earlier tokens of the answer change the logits."""
        return self.repeat_penalty != 1.0 or bool(self.frequency_penalty or self.presence_penalty)


@dataclass(frozen=True)
class Limits:
    """Limits of one answer: `new_tokens`, and `seconds` from its admission; None is no limit."""

    new_tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class EngineConfig:
    """The settings of the engine: sizes in tokens, times in seconds, memory in bytes.

    `context` is the maximum of one conversation; `slots` conversations are decoded at once.
    `threads` of None uses the physical cores within the container's CPU quota.
    `kv_type` is the type of the KV cache: q8_0 halves its size, q4_0 quarters it.
    `cache_ram` is the prefix cache for conversations that lost their slots, in bytes; 0 disables it.
    `speculation` enables prompt-lookup decoding where it is faster.
    The `max_...` are limits of each request, None for none: a longer prompt loses its oldest turns or is
    refused, a longer answer ends with the reason "length" or "time".
    """

    context: int = 4096
    slots: int = 4
    queue: int = 32
    threads: int | None = None
    batch: int = 512
    use_extra_buffers: bool = True
    kv_type: KvType = "f16"
    cache_ram: int = 256 << 20
    speculation: bool = True
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        _require(self.context >= 64, "context", self.context, "use 64 or more tokens")
        _require(1 <= self.slots <= 64, "slots", self.slots, "use 1 to 64")
        _require(self.queue >= 0, "queue", self.queue, "use 0 or more")
        _require(self.threads is None or self.threads >= 1, "threads", self.threads, "use 1 or more")
        _require(self.batch >= 32, "batch", self.batch, "use 32 or more tokens")
        _require(self.kv_type in get_args(KvType), "kv_type", self.kv_type, "use f16, q8_0 or q4_0")
        _require(self.cache_ram >= 0, "cache_ram", self.cache_ram, "use 0 (off) or more bytes")
        for name in ("max_prompt_tokens", "max_new_tokens", "max_seconds"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "use more than 0, or leave it out for no limit")

    @property
    def limits(self) -> Limits:
        """Return the limits of one answer."""
        return Limits(self.max_new_tokens, self.max_seconds)


_KEYS = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
}


def recommended(metadata: Callable[[str], str]) -> dict[str, float]:
    """Return the file's recommended values for SamplingParams, without invalid ones.

    `metadata` returns a key's value as text, or "" when it is missing.
    """
    found = ((name, _number(name, metadata(key))) for name, key in _KEYS.items())
    return {name: value for name, value in found if value is not None}


def sampling_over(recommended: Mapping[str, float], given: Mapping[str, Any]) -> SamplingParams:
    """Return the given values, over the model's recommended ones, over the defaults.

    Keys are fields of SamplingParams. Raises SettingsError.
    """
    return SamplingParams(**{**recommended, **given})


def _number(name: str, text: str) -> float | None:
    try:
        value = int(text) if name == "top_k" else round(float(text), 6)  # float32 as it was written
        SamplingParams(**{name: value})  # type: ignore[arg-type]  # the name is one of _KEYS
    except (ValueError, SettingsError):
        return None
    return value
