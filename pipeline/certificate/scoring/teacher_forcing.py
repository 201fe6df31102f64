"""Reads several texts side by side with one context: a small batch costs nearly as much as a large one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.core.prefix_cache import common_prefix
from engine.core.types import BatchRow
from engine.llama.library import load_variant
from engine.llama.model import Adapter, Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import CpuChoice

_BATCH = 256  # tokens; their logits take 128 MB with a vocabulary of 128,000
_TEXTS = 16
_CACHE = 8192  # tokens of all texts together
_OUTPUTS = 512  # rows of logits of all texts together: 300 MB with a vocabulary of 150,000
Logits = NDArray[np.float32]


def batches_within(lengths: Sequence[int], outputs: Sequence[int]) -> Iterator[range]:
    """Texts that are read together, by their places: few enough for the memory.

    `lengths` are in tokens, `outputs` of them have their logits kept.
    """
    start = 0
    for end in range(1, len(lengths) + 1):
        longest = max(lengths[start : end + 1])
        full = longest * (end + 1 - start) > _CACHE or sum(outputs[start : end + 1]) > _OUTPUTS
        if end == len(lengths) or full or end - start == _TEXTS:
            yield range(start, end)
            start = end


def open_runner(
    model: Model, texts: int, longest: int, threads: int, adapter: Adapter | None = None
) -> Runner:
    """A context for so many texts of at most `longest` tokens. Raises EngineError."""
    return Runner(
        model, slots=texts, context=longest, batch=_BATCH, threads=threads, unified=True, adapter=adapter
    )


def batched_logits(runner: Runner, texts: Sequence[Sequence[int]], first: Sequence[int]) -> list[Logits]:
    """Read the texts into empty slots, one each; the logits of each from its token `first` on.

    What all of them begin with is read once.
    """
    shared = min(*first, *(common_prefix(texts[0], text) for text in texts))
    for start in range(0, shared, _BATCH):
        runner.decode([BatchRow(0, start, texts[0][start : min(shared, start + _BATCH)], 0)])
    kept = [shared, *(runner.prepare(slot, shared, 0) if shared else 0 for slot in range(1, len(texts)))]
    found: list[list[Logits]] = [[] for _ in texts]
    for rows in _batches(texts, kept, first):
        runner.decode(rows)
        for row in rows:
            if row.outputs:
                found[row.slot].append(runner.logits(row.slot, row.outputs))
    return [np.concatenate(pieces) for pieces in found]


def _batches(
    texts: Sequence[Sequence[int]], kept: Sequence[int], first: Sequence[int]
) -> Iterator[list[BatchRow]]:
    rows: list[BatchRow] = []
    free = _BATCH
    for slot, (text, wanted) in enumerate(zip(texts, first, strict=True)):
        start = kept[slot]
        while start < len(text):
            piece = text[start : start + free]
            end = start + len(piece)
            rows.append(BatchRow(slot, start, piece, end - max(start, min(end, wanted))))
            start, free = end, free - len(piece)
            if not free:
                yield rows
                rows, free = [], _BATCH
    if rows:
        yield rows


@dataclass(frozen=True)
class Sample:
    """An answer behind its prompt, as token ids; `text` is the last message of the prompt, for people.

    `own` tells answers of the tuned model itself from those that a data set holds. Both kinds of one prompt
    share its number. `refused` says why the data set's answer to the prompt is not used, if it is not.
    """

    number: int
    text: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    own: bool
    refused: str = ""


@contextmanager
def open_model(path: Path, choice: CpuChoice) -> Iterator[Model]:
    """The model for as long as the context lasts. Raises ModelError."""
    if choice.path is not None:
        load_variant(Path(choice.path))
    model = Model(path, extra_buffers=choice.extra_buffers)
    try:
        yield model
    finally:
        model.close()


def logits_of(
    model: Model, samples: Sequence[Sample], threads: int, adapter: Adapter | None = None
) -> Iterator[Logits]:
    """Logits before each token of each answer, [answer tokens, vocabulary], sample by sample.

    Raises EngineError.
    """
    texts = [[*sample.prompt, *sample.answer[:-1]] for sample in samples]
    first = [len(sample.prompt) - 1 for sample in samples]  # its output foretells the answer's first token
    for group in batches_within([len(text) for text in texts], [len(sample.answer) for sample in samples]):
        longest = max(len(texts[place]) for place in group)
        runner = open_runner(model, len(group), longest, threads, adapter)
        try:
            yield from batched_logits(
                runner, [texts[place] for place in group], [first[place] for place in group]
            )
        finally:
            runner.close()
