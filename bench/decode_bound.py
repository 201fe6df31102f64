"""Upper bound on throughput: the users' prompts and answers through llama_decode only.

The best order for throughput: all prompts first, then one token of every answer per batch. No sampling, no
detokenizing, no waiting; the prompts' common prefix is computed once and copied. After llama.cpp's
tools/batched-bench.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.metrics import Answer, Figures, figures_of
from bench.systems import Setup, own_peak
from bench.workload import Workload
from engine.config import EngineConfig
from engine.core.prefix_cache import common_prefix
from engine.core.types import BatchRow
from engine.llama.model import Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import load_cpu_backend, probe_model

_TOKEN = 100  # any token: the cost of decoding does not depend on it


def bare_decode(setup: Setup, workload: Workload) -> Figures:
    """Measure the first turn of each of the workload's users, after a warm-up."""
    choice = load_cpu_backend(setup.model, threads=setup.threads)
    model = Model(setup.model, extra_buffers=choice.extra_buffers)
    runner = Runner(
        model,
        slots=setup.slots,
        context=setup.context,
        batch=EngineConfig().batch,
        threads=setup.threads,
    )
    try:
        users = range(-1, setup.slots)
        warm_up, *prompts = [_prompt(setup, model, workload.question(user, 0)) for user in users]
        _answer(runner, [warm_up], workload.new_tokens)
        answers = _answer(runner, prompts, workload.new_tokens)
    finally:
        runner.close()
        model.close()
    return figures_of(answers, own_peak(), outside_decode=0.0)


def _prompt(setup: Setup, model: Model, question: str) -> list[int]:
    facts = probe_model(setup.model, threads=setup.threads).facts
    return facts.prompt_builder(model.vocab).tokens([{"role": "user", "content": question}])


def _answer(runner: Runner, prompts: Sequence[list[int]], new_tokens: int) -> list[Answer]:
    began = time.perf_counter()
    times: list[list[float]] = [[] for _ in prompts]
    kept = [common_prefix(prompt[:-1], prompts[0]) if slot else 0 for slot, prompt in enumerate(prompts)]
    for slot, prompt in enumerate(prompts):
        runner.prepare(slot, kept[slot], copy_from=0 if slot else None)
        runner.decode([BatchRow(slot, kept[slot], prompt[kept[slot] :], 1)])
        times[slot].append(time.perf_counter())
    for step in range(new_tokens - 1):
        runner.decode(
            [BatchRow(slot, len(prompt) + step, [_TOKEN], 1) for slot, prompt in enumerate(prompts)]
        )
        for shown in times:
            shown.append(time.perf_counter())
    return [
        Answer(1, began, tuple(shown), len(prompt), keep, new_tokens)
        for shown, prompt, keep in zip(times, prompts, kept, strict=True)
    ]
