"""Batched teacher forcing: logits of several texts in one context, as a small batch costs nearly as much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.core.prefix_cache import common_prefix
from engine.core.types import BatchRow
from engine.llama.model import Adapter, Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import CpuChoice, load_choice

_BATCH = 256  # tokens; their logits take 128 MB with a vocabulary of 128,000
_MAX_TEXTS = 16
_MAX_TOKENS = 8192  # of all texts together
_MAX_OUTPUTS = 512  # rows of logits of all texts together: 300 MB with a vocabulary of 150,000
Logits = NDArray[np.float32]


def batches_within(lengths: Sequence[int], outputs: Sequence[int]) -> Iterator[range]:
    """Split texts into batches that fit the memory, as ranges of indices.

    `lengths` are the texts' tokens, `outputs` the number of tokens whose logits are stored.
    """
    start = 0
    for end in range(1, len(lengths) + 1):
        longest = max(lengths[start : end + 1])
        full = longest * (end + 1 - start) > _MAX_TOKENS or sum(outputs[start : end + 1]) > _MAX_OUTPUTS
        if end == len(lengths) or full or end - start == _MAX_TEXTS:
            yield range(start, end)
            start = end


def open_runner(
    model: Model, texts: int, longest: int, threads: int, adapter: Adapter | None = None
) -> Runner:
    """Create a context for a number of texts of at most `longest` tokens each. Raises EngineError."""
    return Runner(
        model, slots=texts, context=longest, batch=_BATCH, threads=threads, unified=True, adapter=adapter
    )


def batched_logits(runner: Runner, texts: Sequence[Sequence[int]], first: Sequence[int]) -> list[Logits]:
    """Decode the texts in empty slots, one each, and return the logits of each from its token `first` on.

    Each array is [tokens, vocabulary]. The texts' common prefix is decoded once.
    """
    shared = min(*first, *(common_prefix(texts[0], text) for text in texts))
    for start in range(0, shared, _BATCH):
        runner.decode([BatchRow(0, start, texts[0][start : min(shared, start + _BATCH)], 0)])
    computed = [shared, *(runner.prepare(slot, shared, 0) if shared else 0 for slot in range(1, len(texts)))]
    logits: list[list[Logits]] = [[] for _ in texts]
    for rows in _decode_batches(texts, computed, first):
        runner.decode(rows)
        for row in rows:
            if row.outputs:
                logits[row.slot].append(runner.logits(row.slot, row.outputs))
    return [np.concatenate(parts) for parts in logits]


def _decode_batches(
    texts: Sequence[Sequence[int]], computed: Sequence[int], first: Sequence[int]
) -> Iterator[list[BatchRow]]:
    """Split the texts, from their `computed` tokens on, into batches for `decode`."""
    rows: list[BatchRow] = []
    free = _BATCH
    for slot, (text, first_output) in enumerate(zip(texts, first, strict=True)):
        start = computed[slot]
        while start < len(text):
            tokens = text[start : start + free]
            end = start + len(tokens)
            rows.append(BatchRow(slot, start, tokens, end - max(start, min(end, first_output))))
            start, free = end, free - len(tokens)
            if not free:
                yield rows
                rows, free = [], _BATCH
    if rows:
        yield rows


@dataclass(frozen=True)
class Sample:
    """A prompt and its answer as token ids; `text` is the prompt's last message, for display.

    `own` is true for an answer that the tuned model generated, false for one of the user's data; both answers
    to a prompt have its `number`. `refused` is the reason why the data's answer is not used. The field names
    are keys of the cached scores.
    """

    number: int
    text: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    own: bool
    refused: str = ""


@contextmanager
def open_model(path: Path, choice: CpuChoice) -> Iterator[Model]:
    """Load a model with its CPU backend until the context ends. Raises ModelError and BackendError."""
    model = Model(path, extra_buffers=load_choice(path, choice).extra_buffers)
    try:
        yield model
    finally:
        model.close()


@contextmanager
def open_adapter(model: Model, path: Path | None) -> Iterator[Adapter | None]:
    """Load a GGUF LoRA on the model until the context ends; None where there is none. Raises ModelError."""
    adapter = Adapter(model, path) if path else None
    try:
        yield adapter
    finally:
        if adapter is not None:
            adapter.close()


def logits_of(
    model: Model, samples: Sequence[Sample], threads: int, adapter: Adapter | None = None
) -> Iterator[Logits]:
    """Yield the logits that predict each token of an answer, [answer tokens, vocabulary], sample by sample.

    Raises EngineError.
    """
    texts = [[*sample.prompt, *sample.answer[:-1]] for sample in samples]
    first = [len(sample.prompt) - 1 for sample in samples]  # its output predicts the answer's first token
    for batch in batches_within([len(text) for text in texts], [len(sample.answer) for sample in samples]):
        longest = max(len(texts[index]) for index in batch)
        runner = open_runner(model, len(batch), longest, threads, adapter)
        try:
            yield from batched_logits(
                runner, [texts[index] for index in batch], [first[index] for index in batch]
            )
        finally:
            runner.close()
