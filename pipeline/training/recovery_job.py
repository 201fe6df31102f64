"""RecoveryJob, its chats, and the figures of a recovery."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.chat_templates import GivenTemplate
from pipeline.data.dataset import Example
from pipeline.quantize.job import QuantPlan
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.training.recovery_config import RecoveryOptions, refresh_every


@dataclass(frozen=True)
class RecoveryJob:
    """Recover `adapter` on `base` for the quantization `quant`; the adapter goes to the folder `out`.

    `full` is the unquantized GGUF of the tuned model, whose tensors get the types of `plan`, weighted by the
    importance matrix `imatrix`. With `base_full`, the unquantized GGUF of the base alone, the file is that
    of the base, and the adapter stays beside it.
    """

    options: RecoveryOptions
    base: Source
    adapter: Adapter
    quant: str
    full: Path
    plan: QuantPlan
    out: Path
    imatrix: Path | None = None
    base_full: Path | None = None
    template: GivenTemplate | None = None
    threads: int = 1
    resume: bool = True

    @property
    def apart(self) -> bool:
        """Whether the adapter stays beside the file."""
        return self.base_full is not None

    @property
    def refresh_every(self) -> int:
        """The number of steps after which the base is rounded again."""
        layers = {dtype for name, dtype in self.plan.type_names.items() if name.startswith("blk.")}
        return refresh_every(layers)


@dataclass(frozen=True)
class Recovery:
    """The figures of a recovery: the divergence from the unquantized model on held-out chats, in nats.

    With `labels` they are the loss on these chats' own answers.

    `before` is that of plain rounding, `after` the recovered file's, at `step` of `steps`; `low` and `high`
    are the 95 % interval of what was gained, None for too few chats. `step` 0 means that nothing was gained
    beyond chance, and no adapter was written.
    """

    before: float
    after: float
    low: float | None
    high: float | None
    step: int
    steps: int
    chats: int
    held_out_chats: int
    own_answers: bool
    labels: bool
    seconds: float

    @property
    def helped(self) -> bool:
        """Whether the recovered adapter is closer to the unquantized model than plain rounding."""
        return self.step > 0

    def figures(self) -> dict[str, Any]:
        """Return the figures for a record; the time is not among them, as it is not the same twice."""
        return {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if key != "seconds"
        }

    def describe(self, quant: str) -> str:
        """Say what it gained, in a line for the user."""
        source = "its own answers" if self.own_answers else f"{self.chats} chats"
        measure = "the loss" if self.labels else "the KL to the tuned model"
        where = f"{measure} on {self.held_out_chats} held-out ones"
        if not self.helped:
            return (
                f"{quant} was not recovered: learning on {source} did not lower {where} ({self.before:.3f}) "
                "beyond chance, so this is the plain file"
            )
        interval = "" if self.low is None else f" (gained {self.low:.3f} to {self.high:.3f})"
        return (
            f"{quant} was recovered on {source} in {self.step} steps: {where} went from {self.before:.3f} "
            f"to {self.after:.3f}{interval}"
        )


@dataclass(frozen=True)
class Examples:
    """The chats to learn on, and the held-out ones; rows are padded with the token `pad_id`."""

    train: list[Example]
    held: list[Example]
    pad_id: int
