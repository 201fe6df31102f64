"""FinetuneConfig and FinetuneReport: the options and the results of a fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.errors import InputError

Schedule = Literal["constant", "linear", "cosine"]
StoredType = Literal["float16", "float32"]
Precision = Literal["auto", "float32", "bfloat16"]
ALL_LINEAR = "all-linear"
"""PEFT's name for every linear layer but the output head."""


@dataclass(frozen=True)
class FinetuneConfig:
    """The options of a fine-tuning. Raises InputError for a value out of range.

    `base` is a folder (or a Hub id), `out` the adapter's folder. `steps`, when given, takes precedence over
    `epochs`. `base_name` is the base's name in the adapter; None takes the base's name, never a path.
    `held_out` is the fraction of the chats for evaluation, not trained on. `max_length` is in tokens. The
    update is scaled by alpha / rank. `precision` is the type of matrix products in training; "auto" takes
    the faster one on this CPU. `stored_type` is the type in the adapter's file. `chat_template` is
    a Jinja file or a name, in place of the base's; the adapter then carries it.
    """

    base: str
    data: Path
    out: Path
    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    learning_rate: float = 3e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    epochs: float = 3.0
    steps: int | None = None
    batch_size: int = 8
    max_length: int = 1024
    held_out: float = 0.1
    seed: int = 42
    precision: Precision = "auto"
    stored_type: StoredType = "float16"
    base_name: str | None = None
    chat_template: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        _require(1 <= self.rank <= 1024, "--rank", self.rank, "use 1 to 1024")
        _require(
            0 < self.alpha <= 4096, "--alpha", self.alpha, "use more than 0, usually 1 or 2 times the rank"
        )
        _require(0 <= self.dropout < 1, "--dropout", self.dropout, "use 0 to below 1")
        _require(0 < self.learning_rate <= 0.1, "--lr", self.learning_rate, "use about 1e-4 to 5e-4")
        _require(
            self.schedule in get_args(Schedule), "--schedule", self.schedule, "use constant, linear or cosine"
        )
        _require(
            self.precision in get_args(Precision),
            "--precision",
            self.precision,
            "use auto, float32 or bfloat16",
        )
        _require(
            self.stored_type in get_args(StoredType),
            "stored_type",
            self.stored_type,
            "use float16 or float32",
        )
        _require(0 <= self.warmup < 1, "--warmup", self.warmup, "use a fraction of the steps, 0 to below 1")
        _require(0 < self.epochs <= 1000, "--epochs", self.epochs, "use more than 0 and at most 1000")
        _require(self.steps is None or self.steps >= 1, "--steps", self.steps, "use 1 or more")
        _require(self.batch_size >= 1, "--batch-size", self.batch_size, "use 1 or more")
        _require(self.max_length >= 16, "--max-length", self.max_length, "use 16 or more tokens")
        _require(0 <= self.held_out < 1, "--held-out", self.held_out, "use a fraction, 0 to below 1")
        _require(0 <= self.seed < 2**32, "--seed", self.seed, "use 0 to 4294967295")
        _require(
            bool(self.targets) and all(self.targets), "--target", self.targets, "name layers, or all-linear"
        )


@dataclass(frozen=True)
class FinetuneReport:
    """The results of a training. Losses are in nats per token, over the assistant's tokens only.

    `dropped_chats` were left out, as they have no answer within max_length. `train_loss` is measured on about
    as many trained chats as were held out, at least 16; the held-out losses are None without held-out chats.
    """

    steps: int
    seconds: float
    train_chats: int
    held_out_chats: int
    truncated_chats: int
    dropped_chats: int
    trained_parameters: int
    train_loss_before: float
    train_loss: float
    held_out_loss_before: float | None
    held_out_loss: float | None


def _require(ok: bool, option: str, value: object, fix: str) -> None:
    if not ok:
        raise InputError(f"{option} {value!r} is out of range: {fix}")
