"""The options of an evaluation, and what it finds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.paths import expanded
from common.system import physical_cores
from pipeline.data.encoding import TrainOn, require_train_on
from pipeline.data.options import DataOptions
from pipeline.errors import InputError
from pipeline.evaluation.statistics import (
    LossSummary,
    PairedComparison,
    RowLoss,
    compare,
    group_by_category,
    summarize,
)
from pipeline.sources.adapter import parse_adapter

PAGE, RESULTS = "evaluation.html", "results.json"
"""The files of a report."""

QLORA_BASES = ("nf4",)
Kind = Literal["base", "tuned", "gguf"]


@dataclass(frozen=True)
class EvaluateConfig:
    """The models to evaluate, the held-out `data`, and the folder `out` of the report.

    The models are `base`, the base with `adapters` merged (ADAPTER or ADAPTER=WEIGHT, as in an export), or
    `model`, a whole tuned checkpoint with or without its base; and GGUF files, or folders of them. `data` is
    a file or a Hub id, read by `data_options`, whose `field` is the key of a row's category. `questions` is a
    number of held-out rows, or a file of chats or of lines of text. Answers have at most `max_tokens` tokens,
    and rows are cut to `max_length`. `train_on` and `qlora_base` are as the adapter's training.json has them
    if they are None. Raises InputError for invalid options.
    """

    data: str | Path
    out: Path
    base: str | None = None
    adapters: tuple[str, ...] = ()
    model: str | None = None
    gguf: tuple[Path, ...] = ()
    data_options: DataOptions = field(default_factory=DataOptions)
    train_on: TrainOn | None = None
    questions: int | Path = 5
    max_tokens: int = 128
    max_length: int = 2048
    qlora_base: str | None = None
    chat_template: str | None = None
    threads: int = field(default_factory=physical_cores)
    force: bool = False

    def __post_init__(self) -> None:
        self._check_models()
        for name in ("max_tokens", "threads"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {getattr(self, name)} is too few: use 1 or more")
        if self.threads > 1024:
            raise InputError(f"--threads {self.threads} is too many: use 1 to 1024")
        if self.train_on is not None:
            require_train_on(self.train_on)
        if self.max_length < 2:
            raise InputError(f"--max-length {self.max_length} is too few tokens: use 2 or more")
        if isinstance(self.questions, int) and self.questions < 0:
            raise InputError(f"--questions {self.questions} is no number of rows: use 0 or more, or a file")
        self._check_out()

    def _check_models(self) -> None:
        for option, value in (("base", self.base), ("model", self.model)):
            if value is not None and not value.strip():
                raise InputError(f"--{option} is empty: give a model folder or a Hub id")
        if not (self.base or self.model):
            raise InputError(
                "there is no model: give --base BASE with --adapter ADAPTER, or a whole tuned one as --model"
            )
        if self.adapters and not self.base:
            raise InputError("--adapter needs --base: the model that it was trained on")
        if self.adapters and self.model:
            raise InputError("--adapter and --model are both the tuned model: give one of them")
        for text in self.adapters:
            parse_adapter(text)
        if self.qlora_base not in (None, *QLORA_BASES):
            raise InputError(f"--qlora-base {self.qlora_base!r} is unknown: use {', '.join(QLORA_BASES)}")
        if self.qlora_base and not self.adapters:
            raise InputError("--qlora-base needs --adapter: without one, nothing was trained on that base")

    def _check_out(self) -> None:
        out = expanded(self.out)
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {str(self.out)!r} is a file: name a folder for the report")
        require_writable(out)
        if not self.force and any((out / name).exists() for name in (PAGE, RESULTS)):
            raise InputError(
                f"--out {str(self.out)!r} has an evaluation already: choose another folder, or give --force "
                "to replace it"
            )


def require_writable(out: Path) -> None:
    """Raise InputError unless a file can be made in a folder, or in the nearest one above it that exists."""
    folder = next((one for one in (out, *out.absolute().parents) if one.exists()), out)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written: {error.strerror}") from None


@dataclass(frozen=True)
class Measured:
    """A model's loss on some rows, and how it compares with the base's; None for the base, or without one."""

    summary: LossSummary
    paired: PairedComparison | None = None


@dataclass(frozen=True)
class ModelResult:
    """One row of the table.

    `losses` has one RowLoss for each held-out row, `summary` and `paired` are as in Measured, `categories`
    has the same by the category's name. A GGUF of `size` bytes that does not run has its `failure` alone.
    """

    name: str
    kind: Kind
    losses: tuple[RowLoss, ...] = ()
    summary: LossSummary | None = None
    paired: PairedComparison | None = None
    categories: Mapping[str, Measured] = field(default_factory=dict)
    size: int | None = None
    failure: str = ""


def model_result(
    name: str,
    kind: Kind,
    losses: Sequence[RowLoss],
    base: Sequence[RowLoss] | None = None,
    size: int | None = None,
) -> ModelResult:
    """Return a model's row; `base` are the base's losses, with which those of another model are compared."""
    other = None if kind == "base" else base
    others = group_by_category(other or ())
    categories = {
        name: _measured(group, others.get(name)) for name, group in group_by_category(losses).items()
    }
    whole = _measured(losses, other)
    return ModelResult(name, kind, tuple(losses), whole.summary, whole.paired, categories, size)


def _measured(losses: Sequence[RowLoss], base: Sequence[RowLoss] | None) -> Measured:
    return Measured(summarize(losses), compare(base, losses) if base is not None else None)


@dataclass(frozen=True)
class SideBySide:
    """The models' greedy answers to one question, by the models' names; `wanted` is None if unknown."""

    question: str
    wanted: str | None
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and the folder of its page and results.json.

    `rows` of the data were measured; `left_out` have no answer within `max_length` tokens, and `cut` have one
    that goes on beyond them.
    """

    folder: Path
    models: Sequence[ModelResult]
    answers: Sequence[SideBySide]
    rows: int
    cut: int
    left_out: int
    notes: Sequence[str]

    @property
    def page(self) -> Path:
        """The path of the page."""
        return self.folder / PAGE

    @property
    def failed(self) -> Sequence[ModelResult]:
        """The files that do not run."""
        return [model for model in self.models if model.failure]

    def model(self, name: str) -> ModelResult:
        """Return the row of this name. Raises KeyError."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)
