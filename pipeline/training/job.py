"""TrainingJob: a training's options and its inputs, read and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.chat_templates import GivenTemplate
from pipeline.data.dataset import Example
from pipeline.evaluation.rows import Question
from pipeline.sources.model_source import Source
from pipeline.training.config import FinetuneConfig


@dataclass(frozen=True)
class TrainingData:
    """The rows as token ids, and held-out questions to answer.

    `truncated` rows were cut at --max-length, `dropped` ones had no answer before it.
    `notes` are for the user.
    """

    train: list[Example]
    held: list[Example]
    truncated: int
    dropped: int
    notes: tuple[str, ...] = ()
    questions: list[Question] = field(default_factory=list)

    @property
    def sample(self) -> list[Example]:
        """About as many trained rows as are held out, evenly from all: enough to compare the two losses."""
        return self.train[:: max(1, len(self.train) // max(len(self.held), 16))]


@dataclass(frozen=True)
class TrainingJob:
    """The options, the base, its tokenizer, the data, and the chat template if one was given."""

    config: FinetuneConfig
    source: Source
    tokenizer: Any
    data: TrainingData
    given: GivenTemplate | None

    @property
    def pad_id(self) -> int:
        """A token to pad rows with."""
        return pad_id_of(self.tokenizer)


def pad_id_of(tokenizer: Any) -> int:
    """Return a token to pad rows with.

    Any does: the labels say what is trained on, and no token sees the padding to its right.
    """
    return next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
