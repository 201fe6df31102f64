"""What a GGUF makes of answers: its logits, fed with the answers' own tokens (teacher forcing)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.cpu import CpuChoice
from engine.model import Adapter, Model
from engine.native import load_variant
from pipeline.certificate.reading import Logits, groups, open_runner, read


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
    for group in groups([len(text) for text in texts], [len(sample.answer) for sample in samples]):
        longest = max(len(texts[place]) for place in group)
        runner = open_runner(model, len(group), longest, threads, adapter)
        try:
            yield from read(runner, [texts[place] for place in group], [first[place] for place in group])
        finally:
            runner.close()
