"""What batches of a model cost on this machine: timed once for each file, in a child process of its own."""

from __future__ import annotations

from pathlib import Path

from engine.cpu import CpuChoice
from engine.draft import Costs
from engine.memo import memo_of, recall, remember
from engine.probe_child import compute


def batch_costs(model: Path, choice: CpuChoice, threads: int) -> Costs | None:
    """What guessing ahead costs with a cache of f16; None where it cannot be taken back, or timing failed."""
    memo = memo_of("batches", model, choice, threads)
    found = recall(memo)
    if found is None:
        found = compute(
            "time", model, variant=choice.path, extra_buffers=choice.extra_buffers, threads=threads
        ).answer
        if found is None or "seconds" not in found:
            return None
        remember(memo, found)
    seconds = {int(rows): float(time) for rows, time in found["seconds"]}
    return Costs(seconds, int(found["exact"])) if seconds else None
