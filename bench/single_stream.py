"""One sequence through llama_decode only, as llama-bench measures a model: pp512, tg128.

See llama.cpp, tools/llama-bench/llama-bench.cpp, test_prompt and test_gen.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from llama_cpp import llama_cpp as llama

from bench.systems import Setup
from engine.llama.model import Model, context_params
from engine.probe.cpu_backend import load_cpu_backend
from pipeline.errors import PipelineError

_DEPTH = 146  # tokens in the cache before `decode_at_depth`: the users' prompts (llama-bench -d 146)


@dataclass(frozen=True)
class SingleStream:
    """Tokens/s of prefill, of decoding from an empty cache, and of decoding after a prompt."""

    prefill: float
    decode: float
    decode_at_depth: float


def single_stream(setup: Setup, *, quick: bool = False) -> SingleStream:
    """Measure one sequence without an engine. `quick` uses few tokens, for tests. Raises PipelineError."""
    choice = load_cpu_backend(setup.model, threads=setup.threads)
    model = Model(setup.model, extra_buffers=choice.extra_buffers)
    prompt, generate = (64, 8) if quick else (512, 128)
    context = _context(model, setup.threads)
    try:
        _decode(context, model, prompt, 1, depth=0)  # warm-up, as in llama-bench
        return SingleStream(
            prefill=_decode(context, model, prompt, 1, depth=0),
            decode=_decode(context, model, 1, generate, depth=0),
            decode_at_depth=_decode(context, model, 1, generate, depth=_DEPTH),
        )
    finally:
        llama.llama_free(context)
        model.close()


def _context(model: Model, threads: int) -> int:
    params = context_params(context=1024, threads=threads)
    context: int | None = llama.llama_init_from_model(model.handle, params)
    if not context:
        raise PipelineError("no room for a context of 1024 tokens")
    return context


def _decode(context: int, model: Model, tokens: int, times: int, *, depth: int) -> float:
    """Return the tokens/s of `times` batches of `tokens` random tokens, after `depth` cached ones."""
    llama.llama_memory_clear(llama.llama_get_memory(context), False)
    draw = random.Random(0)
    if depth:
        _batch(context, [draw.randrange(model.vocab.size) for _ in range(depth)])
    batches = [[draw.randrange(model.vocab.size) for _ in range(tokens)] for _ in range(times)]
    began = time.perf_counter()
    for batch in batches:
        _batch(context, batch)
    return tokens * times / (time.perf_counter() - began)


def _batch(context: int, tokens: list[int]) -> None:
    ids = (llama.llama_token * len(tokens))(*tokens)
    if llama.llama_decode(context, llama.llama_batch_get_one(ids, len(tokens))) != 0:
        raise PipelineError(f"llama_decode failed on {len(tokens)} tokens")
    llama.llama_synchronize(context)
