"""Prefix reuse for caches that are not one entry per token: sliding windows, recurrent states, hybrids.

The models are tiny and random, of real architectures, converted by our export. Whatever was reused, copied,
truncated or restored, each token of a greedy answer must be the most likely one when everything is computed
again; nearly, since caches store 16-bit numbers and random weights give many near ties.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.config import SamplingParams
from engine.core.engine import Engine
from engine.core.types import BatchRow, DecodeAborted
from engine.llama.model import Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import load_cpu_backend
from engine.types import Finished
from pipeline.convert.job import ConvertJob, convert
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.progress import NoProgress
from pipeline.sources.model_source import base_source
from tests.engine.helpers import run
from tests.pipeline.tiny import make_base

WINDOW = 16
KINDS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "sliding_window": WINDOW,
        "num_hidden_layers": 6,  # every sixth layer has global attention
        "query_pre_attn_scalar": 4,
        "initializer_range": 0.05,  # it scales embeddings by 8, and would only repeat the last token
    },
    "mamba": {"state_size": 16, "conv_kernel": 4, "expand": 2},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 128,
    },
}
SAMPLING = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=10, ignore_end=True)
NEAR = 0.03  # standard deviations of the logits; 16-bit caches cost up to 0.01, one token more or less 0.28
FIRST = [1, *range(500, 560)]
SECOND = [1, *range(900, 970)]


@pytest.fixture(scope="session", params=KINDS)
def tiny(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    """Convert a random model whose weights are large enough that every token of the context matters."""
    load_cpu_backend(smollm2)
    folder = tmp_path_factory.mktemp(request.param)
    base = make_base(folder / "base", request.param, **{"initializer_range": 0.3, **KINDS[request.param]})
    # transformers 5 renames the layer types; the converter expects those of the published models.
    config = json.loads((base / "config.json").read_text())
    config |= {key: KINDS[request.param][key] for key in ("layer_types",) if key in KINDS[request.param]}
    (base / "config.json").write_text(json.dumps(config))
    target = folder / "tiny.gguf"
    job = ConvertJob(base_source(str(base)), (), "f32", target, "tiny", ensure_toolchain(), 2)
    convert(job, NoProgress())
    model = Model(target)
    yield model
    model.close()


@contextmanager
def _engine(model: Model, *, slots: int = 1, cache_ram: int = 0) -> Iterator[Engine]:
    runner = Runner(model, slots=slots, context=256, batch=64, threads=1)
    engine = Engine(runner, slots=slots, context=256, queue=8, batch=64, cache_ram=cache_ram)
    yield engine
    engine.close()


def _ask(engine: Engine, number: int, prompt: list[int]) -> tuple[list[int], int]:
    """Return the answer's tokens without the last, and how many prompt tokens came from a cache."""
    events = run(engine, engine.add(number, list(prompt), SAMPLING))[number]
    assert isinstance(events[-1], Finished)
    return _answer_tokens(engine, prompt), events[-1].stats.cached_tokens


def _answer_tokens(engine: Engine, prompt: list[int]) -> list[int]:
    """Return the answer to a prompt from its slot, without the last token, which is never decoded."""
    caches = [slot.tokens for slot in engine._scheduler.slots]
    found = [cache[len(prompt) :] for cache in caches if cache[: len(prompt)] == prompt]
    assert len(found) == 1 and len(found[0]) == SAMPLING.max_tokens - 1
    return found[0]


def _distance(model: Model, prompt: list[int], answer: list[int]) -> float:
    """Return how far below the most likely token the worst one is, in standard deviations of the logits."""
    runner = Runner(model, slots=1, context=256, batch=256, threads=1)
    runner.decode([BatchRow(0, 0, [*prompt, *answer[:-1]], len(answer))])
    rows = runner.logits(0, len(answer))
    worst = max(float((row.max() - row[token]) / row.std()) for row, token in zip(rows, answer, strict=True))
    runner.close()
    return worst


def _cached(engine: Engine, slot: int) -> list[int]:
    return list(engine._scheduler.slots[slot].tokens)


def test_another_context_is_noticed(tiny: Model) -> None:
    """The measure detects a wrong context, so the tests below can fail."""
    with _engine(tiny) as engine:
        answer, _ = _ask(engine, 1, FIRST)
    assert _distance(tiny, FIRST, answer) < NEAR
    for wrong in (FIRST[:-1], [*FIRST[:30], *FIRST[31:]], SECOND):
        assert _distance(tiny, wrong, answer) > 5 * NEAR


def test_the_next_turn_reuses_the_whole_and_says_the_same(tiny: Model) -> None:
    with _engine(tiny, slots=2) as engine:
        _ask(engine, 1, FIRST)
        so_far = _cached(engine, 0)
        turn = [*so_far, 700, 701, 702]
        answer, cached = _ask(engine, 2, turn)
    assert cached == len(so_far) and _distance(tiny, turn, answer) < NEAR


@pytest.mark.parametrize("keep", [20, 45, 60])
def test_a_cut_prefix_says_the_same(tiny: Model, keep: int) -> None:
    """A regenerated answer or an edited message reuses only part of the cache."""
    edited = [*FIRST[:keep], *range(1200, 1220)]
    with _engine(tiny) as engine:
        _ask(engine, 1, FIRST)
        answer, cached = _ask(engine, 2, edited)
        assert cached == (keep if engine.runner.can_truncate else 0)
    assert _distance(tiny, edited, answer) < NEAR


def test_a_shared_beginning_is_copied_or_read_again(tiny: Model) -> None:
    long, other = [*FIRST, *range(1500, 1560)], [*FIRST[:40], *range(1300, 1320)]
    with _engine(tiny, slots=3) as engine:
        _ask(engine, 1, long)
        answer, cached = _ask(engine, 2, other)
        assert cached == (40 if engine.runner.can_truncate else 0)
        again, _ = _ask(engine, 3, [*long, 88])
    assert _distance(tiny, other, answer) < NEAR and _distance(tiny, [*long, 88], again) < NEAR


@pytest.mark.parametrize("back", [0, 5, 30])
def test_a_restored_cache_says_the_same(tiny: Model, back: int) -> None:
    """A saved window or state cannot be shortened: with `back` tokens removed it is not reused."""
    with _engine(tiny, cache_ram=64 << 20) as engine:
        _ask(engine, 1, FIRST)
        so_far = _cached(engine, 0)
        _ask(engine, 2, SECOND)
        turn = [*so_far[: len(so_far) - back], *range(1600, 1612)]
        answer, cached = _ask(engine, 3, turn)
        assert engine.stats().restores == (1 if engine.runner.can_truncate or not back else 0)
        assert cached == (0 if back else len(so_far))
        later = [*_cached(engine, 0), 1700]
        answer_later, cached_later = _ask(engine, 4, later)
    assert _distance(tiny, turn, answer) < NEAR
    assert _distance(tiny, later, answer_later) < NEAR and cached_later == len(later) - 1


def test_side_by_side_says_the_same(tiny: Model) -> None:
    prompts = [FIRST, SECOND[:30], [1, *range(2000, 2110)]]
    with _engine(tiny, slots=3) as engine:
        for number, prompt in enumerate(prompts):
            engine.add(number, list(prompt), SAMPLING)
        run(engine)
        answers = [_answer_tokens(engine, prompt) for prompt in prompts]
    assert all(
        _distance(tiny, prompt, answer) < NEAR for prompt, answer in zip(prompts, answers, strict=True)
    )


def test_a_prompt_that_is_being_read_is_copied_as_far_as_it_is(tiny: Model) -> None:
    prompts = [[1, *range(2000, 2110)], [1, *range(2000, 2100), *range(2500, 2520)]]
    with _engine(tiny, slots=2) as engine:
        engine.add(0, list(prompts[0]), SAMPLING)
        engine.step()
        engine.add(1, list(prompts[1]), SAMPLING)
        run(engine)
        assert engine.stats().cached_tokens == 64
        answers = [_answer_tokens(engine, prompt) for prompt in prompts]
    assert all(
        _distance(tiny, prompt, answer) < NEAR for prompt, answer in zip(prompts, answers, strict=True)
    )


def test_an_aborted_step_leaves_nothing_behind(tiny: Model) -> None:
    with _engine(tiny, slots=2) as engine:
        _ask(engine, 1, FIRST)
        turn = [*_cached(engine, 0), *range(1800, 1830)]
        events = engine.add(2, list(turn), SAMPLING)
        engine.runner.abort()
        events += engine.step()
        run(engine, events)
        answer = _answer_tokens(engine, turn)
    assert _distance(tiny, turn, answer) < NEAR


def test_an_abort_in_the_middle_of_a_graph(tiny: Model) -> None:
    """After such an abort, the memory may already include tokens that were not computed."""
    runner = Runner(tiny, slots=1, context=256, batch=64, threads=1)
    runner.start(0, SAMPLING)
    runner.decode([BatchRow(0, 0, FIRST[:30], 1)])
    runner.abort()
    with pytest.raises(DecodeAborted):
        runner.decode([BatchRow(0, 30, FIRST[30:], 1)])
    kept = runner.prepare(0, 30)
    runner.decode([BatchRow(0, kept, FIRST[kept:], 1)])
    token = runner.sample(0)
    runner.close()
    assert _distance(tiny, FIRST, [token]) < NEAR
