"""A model before and after its training: losses of held-out and trained rows, and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.evaluation.config import PAGE, Evaluation, SideBySide, model_result
from pipeline.evaluation.page import render_page
from pipeline.evaluation.statistics import RowLoss, compare_in_memory
from pipeline.evaluation.token_losses import mean_loss, row_losses
from pipeline.evaluation.torch_scores import greedy_answers, stop_tokens
from pipeline.progress import StepProgress
from pipeline.training.job import TrainingJob

_MAX_TOKENS = 96


@dataclass(frozen=True)
class Measurement:
    """The losses of the held-out rows and of a sample of the trained ones, and the answers."""

    held: list[RowLoss]
    sample: list[RowLoss]
    answers: list[str]

    @classmethod
    def from_json(cls, tree: Any) -> Measurement:
        """Return what `as_json` described."""
        losses = {name: [RowLoss(**row) for row in tree[name]] for name in ("held", "sample")}
        return cls(**losses, answers=tree["answers"])

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @property
    def sample_loss(self) -> float:
        """The loss on trained rows, in nats a token."""
        return round(mean_loss(self.sample), 4)

    @property
    def held_loss(self) -> float | None:
        """The loss on held-out rows, in nats a token; None without any."""
        return round(mean_loss(self.held), 4) if self.held else None


def measure(job: TrainingJob, model: Any, progress: StepProgress, title: str) -> Measurement:
    """Measure the losses of the model, and let it answer the held-out questions."""
    data = job.data
    rows = [*data.held, *data.sample]
    # transformers leaves its autocast on a trained model: before and after are to differ by training alone
    lower = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(job.config.precision)
    precision = torch.autocast(model.device.type, lower, enabled=lower is not None)
    with precision, progress.step(title, len(rows) + len(data.questions)) as advance:
        losses = row_losses(model, rows, job.config.batch_size, advance)
        prompts = [question.ids for question in data.questions]
        stops = stop_tokens(job.tokenizer, model, data.train)
        answers = greedy_answers(
            model, prompts, stops, _MAX_TOKENS, lambda done, note="": advance(len(rows) + done, note)
        )
    texts = [str(job.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]
    return Measurement(losses[: len(data.held)], losses[len(data.held) :], texts)


def comparison(before: Measurement, after: Measurement) -> dict[str, Any] | None:
    """Return the held-out losses before and after with intervals, for training.json; None without any."""
    return compare_in_memory(before.held, after.held) if before.held else None


def write_page(
    job: TrainingJob, folder: Path, names: Mapping[str, str], before: Measurement, after: Measurement
) -> None:
    """Write evaluation.html into the folder, if rows were held out; `names` has the "data" and the "base"."""
    if not before.held:
        return
    answers = [
        SideBySide(question.text, question.wanted, {"base": first, "tuned": second})
        for question, first, second in zip(job.data.questions, before.answers, after.answers, strict=True)
    ]
    evaluation = Evaluation(
        folder,
        (
            model_result("base", "base", before.held),
            model_result("tuned", "tuned", after.held, before.held),
        ),
        answers,
        rows=len(before.held),
        cut=sum(example.truncated for example in job.data.held),
        left_out=0,
        notes=(),
    )
    inputs = {
        **names,
        "field": job.config.data_options.field,
        "max_tokens": _MAX_TOKENS,
    }
    (folder / PAGE).write_text(render_page(evaluation, inputs), encoding="utf-8")
