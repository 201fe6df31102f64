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
    """

    train: list[Example]
    held: list[Example]
    truncated: int
    dropped: int
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
