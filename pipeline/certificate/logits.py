"""What a GGUF makes of an answer: its logits, fed with the answer's own tokens (teacher forcing)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.cpu import CpuChoice
from engine.model import Model
from engine.native import load_variant
from engine.offload import common_prefix
from engine.runner import Runner
from engine.scheduler import Row

_BATCH = 128  # tokens; their logits take 64 MB with a vocabulary of 128,000


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


class LogitReader:
    """Reads one answer after another with a loaded model."""

    def __init__(self, model: Model, *, context: int, threads: int) -> None:
        """`context` is the longest prompt and answer in tokens. Raises EngineError."""
        self._runner = Runner(model, slots=1, context=context, batch=_BATCH, threads=threads)
        self._held: list[int] = []

    def logits(self, sample: Sample) -> NDArray[np.float32]:
        """Logits before each token of the answer: [answer tokens, vocabulary]."""
        tokens = [*sample.prompt, *sample.answer[:-1]]
        first = len(sample.prompt) - 1  # its output foretells the answer's first token
        kept = self._runner.prepare(0, min(first, common_prefix(self._held, tokens)))
        found = [self._piece(tokens, start, first) for start in range(kept, len(tokens), _BATCH)]
        self._held = tokens
        return np.concatenate([piece for piece in found if piece is not None])

    def _piece(self, tokens: Sequence[int], start: int, first: int) -> NDArray[np.float32] | None:
        piece = tokens[start : start + _BATCH]
        outputs = min(len(piece), max(0, start + len(piece) - first))
        self._runner.decode([Row(0, start, piece, outputs)])
        return self._runner.logits(0, outputs) if outputs else None

    def close(self) -> None:
        """Free the context; before the model is closed."""
        self._runner.close()
