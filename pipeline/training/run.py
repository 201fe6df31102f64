"""Train the model in memory: measured before, trained with checkpoints, rounded as stored, measured after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from pipeline.data.dataset import Example
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.training.base_model import load_model
from pipeline.training.batches import PackedRow, pack
from pipeline.training.before_after import Measurement, comparison, measure
from pipeline.training.callbacks import RunCallback
from pipeline.training.checkpoints import Checkpoints, RunState
from pipeline.training.config import FinetuneConfig, FinetuneReport
from pipeline.training.device import is_main_process, process_count
from pipeline.training.job import TrainingJob
from pipeline.training.outputs import stored_type
from pipeline.training.ternary import RoundingWarmup
from pipeline.training.trainer import FinetuneTrainer, diverged, load_weights, reject_mixed_packing

_EVALUATIONS = 10
"""Held-out losses of a training whose schedule or stopping needs them, without --eval-every."""

_CHECKPOINTS = 20
"""Checkpoints of a training by several processes, without --save-every."""


@dataclass(frozen=True)
class Trained:
    """The tuned model in memory, the report, and the measurements before and after."""

    model: Any
    report: FinetuneReport
    before: Measurement
    after: Measurement


def train(job: TrainingJob, checkpoints: Checkpoints, state: RunState, progress: StepProgress) -> Trained:
    """Train, and return the model, its weights rounded to their stored type, with what was measured."""
    data = job.data
    rows = pack(data.train, job.config.max_length) if job.config.packing else data.train
    config = _with_intervals(job.config, planned_steps(job.config, len(rows)))
    model = load_model(config, job.source, row_tokens=_median_length(rows))
    pad_id = job.pad_id
    trainer = FinetuneTrainer(config, model, rows, data.held, work=checkpoints.folder, pad_id=pad_id)
    if config.packing:
        reject_mixed_packing(model, data.train)
    before = _measured_before(job, model, checkpoints, progress)
    run_training(config, trainer, checkpoints, state, progress)
    _round(model, stored_type(config, job.source))
    after = measure(job, model, progress, "Measure after")
    return Trained(model, _report(job, model, state, before, after), before, after)


def planned_steps(config: FinetuneConfig, rows: int) -> int:
    """Return the number of optimizer steps for that many rows, as transformers counts them."""
    if config.steps:
        return config.steps
    batches = math.ceil(rows / (config.batch_size * process_count()))
    return math.ceil(config.epochs * max(1, math.ceil(batches / config.accumulate)))


def _with_intervals(config: FinetuneConfig, steps: int) -> FinetuneConfig:
    """Set how often the held-out loss is measured and a checkpoint is saved, where it was not given.

    A single step has no warm-up.
    """
    if steps == 1:  # a warm-up begins at 0, and would leave the weights as they are
        config = replace(config, warmup=0.0)
    if config.eval_every is None and (config.early_stopping or config.schedule == "plateau"):
        config = replace(config, eval_every=max(1, steps // _EVALUATIONS))
    if config.save_every is None and process_count() > 1:  # by the clock, processes would not agree
        config = replace(config, save_every=max(1, steps // _CHECKPOINTS))
    return config


def _median_length(rows: Sequence[Example] | Sequence[PackedRow]) -> int:
    return round(median(row.length if isinstance(row, PackedRow) else len(row.input_ids) for row in rows))


def _measured_before(
    job: TrainingJob, model: Any, checkpoints: Checkpoints, progress: StepProgress
) -> Measurement:
    """Return the measurement before training, which a resumed run reads from the disk."""
    known = checkpoints.before()
    if known is not None and len(known["answers"]) == len(job.data.questions):  # --answers may change
        return Measurement.from_json(known)
    found = measure(job, model, progress, "Measure before")
    if is_main_process():
        checkpoints.store_before(found.as_json())
    return found


def run_training(
    config: FinetuneConfig,
    trainer: FinetuneTrainer,
    checkpoints: Checkpoints,
    state: RunState,
    progress: StepProgress,
) -> None:
    """Train from `state` to the end, and load the best weights if they are not the last."""
    total = planned_steps(config, len(trainer.train_dataset))
    checkpoint = checkpoints.path(state.step) if state.step else None
    stopped = config.early_stopping is not None and state.without_gain >= config.early_stopping
    if checkpoint and (stopped or state.step >= total):  # the Trainer would take one step more
        load_weights(trainer.model, checkpoint)
    else:
        with progress.step("Training", total) as advance:
            if config.ternary:
                trainer.add_callback(RoundingWarmup(trainer.model, config.ternary_warmup))
            trainer.add_callback(RunCallback(config, trainer, checkpoints, state, advance))
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if state.best_step is not None:
        load_weights(trainer.model, checkpoints.path(state.best_step))
    trained = (weight for weight in trainer.model.parameters() if weight.requires_grad)
    if not all(bool(weight.isfinite().all()) for weight in trained):
        raise InputError(diverged(config, state.step))


def _round(model: Any, name: str) -> None:
    """Round the trained weights to their stored type, so that the measured loss is the file's."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(getattr(torch, name)).float()


def _report(
    job: TrainingJob, model: Any, state: RunState, before: Measurement, after: Measurement
) -> FinetuneReport:
    data = job.data
    return FinetuneReport(
        steps=state.step,
        seconds=state.seconds,
        train_chats=len(data.train),
        held_out_chats=len(data.held),
        truncated_chats=data.truncated,
        dropped_chats=data.dropped,
        notes=data.notes,
        trained_parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        trained_tokens=state.trained_tokens,
        train_loss_before=before.sample_loss,
        train_loss=after.sample_loss,
        held_out_loss_before=before.held_loss,
        held_out_loss=after.held_loss,
        best_step=state.best_step,
        evaluation=comparison(before, after),
    )
