"""Describes a model before its weights are loaded, by child processes that run once per file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.system import physical_cores
from engine.config import EngineConfig
from engine.core.speculative import BatchCostModel
from engine.probe.client import compute
from engine.probe.cpu_backend import CpuChoice, Probe, cache_path, load_cached, probe_model, store_cached
from engine.types import ModelInfo, ProgressCallback, no_progress


def batch_costs(model: Path, choice: CpuChoice, threads: int) -> BatchCostModel | None:
    """Return the cost of batches with an f16 KV cache; None without truncation, or when timing failed."""
    memo = cache_path("batches", model, choice, threads)
    found = load_cached(memo)
    if found is None:
        found = compute(
            "time", model, variant=choice.path, extra_buffers=choice.extra_buffers, threads=threads
        ).answer
        if found is None or "seconds" not in found:
            return None
        store_cached(memo, found)
    seconds = {int(rows): float(time) for rows, time in found["seconds"]}
    return BatchCostModel(seconds, int(found["exact"])) if seconds else None


@dataclass(frozen=True)
class Description:
    """A probed file; `costs` are for the model without adapters, with an f16 KV cache.

    They are None when unknown or not wanted. `timed` is True when a child process measured them.
    """

    probe: Probe
    info: ModelInfo
    costs: BatchCostModel | None
    timed: bool


def describe(path: Path, settings: EngineConfig, progress: ProgressCallback = no_progress) -> Description:
    """Probe a file. Raises as engine.probe.cpu_backend.probe_model, which calls `progress`."""
    threads = settings.threads or physical_cores()
    probe = probe_model(
        path,
        threads=threads,
        extra_buffers=settings.use_extra_buffers,
        chat_template=settings.chat_template,
        progress=progress,
    )
    timed = settings.speculation and settings.kv_type == "f16"
    costs = batch_costs(path, probe.choice, threads) if timed else None
    return Description(probe, _info(path, probe, settings, threads), costs, timed)


def _info(path: Path, probe: Probe, settings: EngineConfig, threads: int) -> ModelInfo:
    facts, choice = probe.facts, probe.choice
    return ModelInfo(
        name=facts.name,
        path=str(path),
        architecture=facts.architecture,
        quantization=facts.quantization,
        parameters=facts.parameters,
        size=facts.size,
        context=min(settings.context, facts.trained_context or settings.context),
        cpu_variant=choice.variant + ("" if choice.extra_buffers else " (no extra buffers)"),
        threads=threads,
        recommended=facts.recommended,
        tools=facts.tools,
    )
