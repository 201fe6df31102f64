"""The engine's numbers for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from engine.core.stats import EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "gguf_chat_"
_GAUGES = {
    "slots": "Answers that can be written at the same time",
    "running": "Requests that are being answered",
    "waiting": "Requests that wait for a slot",
    "saved_bytes": "Bytes of idle conversations' caches kept in RAM",
    "occupancy": "Mean share of the slots that a step computed",
    "python_share": "Share of a step's time that is not the model's",
}
_COUNTERS = {
    "requests": "Requests that ended",
    "cancelled": "Requests that were cancelled",
    "overdue": "Requests that ran out of time",
    "generated_tokens": "Tokens of answers",
    "prefilled_tokens": "Prompt tokens computed",
    "cached_tokens": "Prompt tokens taken from a cache",
    "drafted_tokens": "Tokens guessed ahead",
    "accepted_tokens": "Tokens guessed ahead that were right",
    "evictions": "Idle conversations that lost their slot",
    "saves": "Caches saved to RAM",
    "restores": "Caches restored from RAM",
    "steps": "Batches computed",
    "busy_seconds": "Time in steps",
    "model_seconds": "Time in which llama.cpp computed or sampled",
    "queue_seconds": "Time that requests waited for a slot",
    "prefill_seconds": "Time from a request's slot to its first token",
    "decode_seconds": "Time from a request's first token to its last",
}


def registry(stats: Callable[[], EngineStats]) -> CollectorRegistry:
    """Return a registry that takes a snapshot at each scrape."""
    made = CollectorRegistry()
    made.register(_Snapshot(stats))
    return made


def exposition(metrics: CollectorRegistry) -> bytes:
    """Return the text of a scrape, of type CONTENT_TYPE."""
    return generate_latest(metrics)


class _Snapshot(Collector):
    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        now = self._stats()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(_PREFIX + name, text, value=getattr(now, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(_PREFIX + name, text, value=getattr(now, name))
