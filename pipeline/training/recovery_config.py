"""RecoveryOptions: how an adapter is trained for the bits of the file that ships."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from common.files import sha256
from pipeline.data.options import DataOptions
from pipeline.errors import InputError
from pipeline.training.config import Device, FinetuneConfig, Precision

MAX_STEPS = 120
"""Steps without --steps; the held-out part usually ends it earlier."""

EVALUATIONS = 8
"""How often the held-out divergence is measured on the way."""


def refresh_every(types: Collection[str]) -> int:
    """Return after how many steps the base is rounded again, for a file with these types in its layers.

    Between two refreshes the model moves with its adapter only: 4 steps in place of 8 lowered the divergence
    by a hundredth of itself. Rounding to IQ1 to IQ3 takes thirty times as long as to Q4_0. Evaluations
    and checkpoints fall on such steps.
    """
    return 12 if any(name.startswith(("IQ1", "IQ2", "IQ3")) for name in types) else 8


PATIENCE = 2
"""Evaluations without gain after which it ends."""

OWN_ANSWERS = "own"
"""In place of a file of chats: the tuned model's own answers to questions."""

MAX_RANK = 256
"""Dimensions that a recovery may add to an adapter."""

HELD_OUT = 32
"""Chats that are held out at most: more would cost more than they tell."""


@dataclass(frozen=True)
class RecoveryOptions:
    """The options of a recovery. Raises InputError for a value out of range.

    `data` are chats to learn on, a file or a Hub id; without, the model answers `prompts` (a text file with
    one a line) or built-in ones, and learns on its own answers. No labels are needed: what is learned is to
    say what the unquantized model says. Held out is a file `valid`, or else the fraction `held_out` of the
    data. `steps` is their maximum. With `labels` it is the data's answers that are learned, not the model's.

    `rank` gives the adapter that many more dimensions first, in every linear layer of the base.
    """

    data: str | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    prompts: Path | None = None
    steps: int | None = None
    learning_rate: float = 3e-4
    batch_size: int = 4
    max_length: int = 1024
    held_out: float = 0.1
    valid: str | None = None
    valid_options: DataOptions = field(default_factory=DataOptions)
    labels: bool = False
    rank: int | None = None
    seed: int = 42
    precision: Precision = "auto"
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.data is not None and self.prompts is not None:
            raise InputError("--chats and --prompts are two ways to the same end: give one of them")
        if self.labels and self.data is None:
            raise InputError("--labels learns the answers of --chats: give them, or leave it out")
        if not 0 < self.held_out < 1:
            raise InputError(f"--held-out {self.held_out!r} is out of range: use more than 0 and below 1")
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            raise InputError(f"--rank {self.rank} is out of range: use 1 to {MAX_RANK}")
        self.training(FinetuneConfig(base="base", data="data", out=Path("out")), 1)

    def training(self, config: FinetuneConfig, every: int) -> FinetuneConfig:
        """Return `config` with the options of this training, refreshed `every` steps. Raises InputError."""
        steps = MAX_STEPS if self.steps is None else self.steps
        between = every * max(1, steps // (EVALUATIONS * every))
        return replace(
            config,
            steps=steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_length=self.max_length,
            seed=self.seed,
            precision=self.precision,
            device=self.device,
            eval_every=between,
            save_every=between,
            early_stopping=PATIENCE,
        )

    def describe(self) -> dict[str, Any]:
        """Return the options that the result depends on, with the SHA-256 of a file in place of its path."""
        found = asdict(self)
        for name in ("data", "valid", "prompts"):
            value = found[name]
            if value is not None and Path(value).is_file():
                found[name] = {"file": Path(value).name, "sha256": sha256(Path(value))}
            elif value is not None:
                found[name] = str(value)
        return found
