"""Saves, restores, copies, cancels and aborts: every greedy answer is the same as without a cache."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from bench.tiny_gguf import write_model
from engine.config import SamplingParams
from engine.core.engine import Engine
from engine.core.types import BatchRow
from engine.llama.model import Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import load_cpu_backend
from engine.types import Finished

CONTEXT, BATCH, STEPS = 256, 64, 500
NEAR = 0.02  # between the two best logits: batches of other shapes may round either way


def answer_without_cache(runner: Runner, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Return the likeliest tokens after a prompt, and each one's lead over the next best logit."""
    tokens, leads, read = list(prompt), list[float](), 0
    runner.prepare(0, 0)
    while len(tokens) < len(prompt) + count:
        for start in range(read, len(tokens), BATCH):
            runner.decode([BatchRow(0, start, tokens[start : start + BATCH], 1)])
        read = len(tokens)
        [logits] = runner.logits(0, 1)
        second, best = np.argsort(logits)[-2:]
        leads.append(float(logits[best] - logits[second]))
        if runner.vocab.is_eog(int(best)):
            break
        tokens.append(int(best))
    return tokens[len(prompt) :], leads


def differs(said: list[int], expected: list[int], leads: list[float]) -> bool:
    """Return whether an answer leaves the expected one where that was sure."""
    place = next((n for n, (a, b) in enumerate(zip(said, expected, strict=False)) if a != b), None)
    return place is not None and leads[place] > NEAR


def test_no_answer_ever_sees_another_conversations_cache(tmp_path: Path) -> None:
    path, draw = write_model(tmp_path / "tiny.gguf"), random.Random(1)
    load_cpu_backend(path)
    model = Model(path)
    reference = Runner(model, slots=1, context=CONTEXT, batch=BATCH, threads=1)
    runner = Runner(model, slots=4, context=CONTEXT, batch=BATCH, threads=1)
    engine = Engine(runner, slots=4, context=CONTEXT, queue=30, batch=BATCH, cache_ram=400_000)

    def some_tokens(count: int) -> list[int]:
        return [draw.randrange(5, model.vocab.size - 5) for _ in range(count)]

    system = some_tokens(40)
    openings = [
        (system if draw.random() < 0.6 else []) + some_tokens(draw.randrange(20, 110)) for _ in range(10)
    ]
    asked: dict[int, list[int]] = {}
    checked, wrong = 0, list[int]()
    for number in range(STEPS):
        if len(asked) < 20:
            for place in range(draw.choice([0, 1, 1, 2, 5])):
                prompt = draw.choice(openings) + some_tokens(draw.choice([0, 0, 3]))
                # One token after a known prompt needs no decode, so its cache is still to be copied.
                tokens = 1 if draw.random() < 0.3 else draw.randrange(1, 20)
                asked[request := 10 * number + place] = prompt
                engine.add(
                    request, prompt, SamplingParams(temperature=0, repeat_penalty=1, max_tokens=tokens)
                )
        if draw.random() < 0.05 and asked:
            engine.cancel(asked.popitem()[0])
        if draw.random() < 0.05:
            runner.abort()
        states = {request: engine._requests[request] for request in asked}
        for request, event in engine.step():
            if isinstance(event, Finished) and (prompt := asked.pop(request, [])):
                said = states[request].sequence.tokens[len(prompt) :]
                if differs(said, *answer_without_cache(reference, prompt, len(said))):
                    wrong.append(request)
                checked += 1
    stats = engine.stats()
    engine.close()
    reference.close()
    model.close()
    assert not wrong, f"{len(wrong)} of {checked} answers"
    assert checked > 200 and stats.restores > 50 and stats.saves > 50
