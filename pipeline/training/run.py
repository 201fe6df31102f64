"""Train the model in memory: measured before, trained with checkpoints, rounded as stored, measured after."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import torch

from pipeline.errors import InputError
from pipeline.evaluation.statistics import RowLoss, compare_in_memory
from pipeline.evaluation.token_losses import mean_loss, row_losses
from pipeline.progress import Advance, StepProgress
from pipeline.training.base_model import load_model
from pipeline.training.batches import pack
from pipeline.training.callbacks import RunCallback
from pipeline.training.checkpoints import Checkpoints, RunState
from pipeline.training.config import FinetuneConfig, FinetuneReport
from pipeline.training.device import is_main_process, process_count
from pipeline.training.job import TrainingJob
from pipeline.training.outputs import stored_type
from pipeline.training.trainer import FinetuneTrainer, diverged, load_weights, reject_mixed_packing

_EVALUATIONS = 10
"""Held-out losses of a training whose schedule or stopping needs them, without --eval-every."""

_CHECKPOINTS = 20
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    job: TrainingJob, checkpoints: Checkpoints, state: RunState, progress: StepProgress
) -> tuple[Any, FinetuneReport]:
    """Train, and return the model, its weights rounded to their stored type, with the report."""
    data = job.data
    rows = pack(data.train, job.config.max_length) if job.config.packing else data.train
    total = planned_steps(job.config, len(rows))
    config = _with_intervals(job.config, total)
    model = load_model(config, job.source)
    pad_id = _pad_id(job.tokenizer)
    trainer = FinetuneTrainer(config, model, rows, data.held, work=checkpoints.folder, pad_id=pad_id)
    if config.packing:
        reject_mixed_packing(model, data.train)
    before = _measured_before(job, model, checkpoints, progress)
    _run(config, trainer, checkpoints, state, progress.step("Training", total))
    _round(model, stored_type(config, job.source))
    after = _measure(job, model, progress, "Loss after")
    return model, _report(job, model, state, before, after)


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


def _pad_id(tokenizer: Any) -> int:
    # Any token does: the labels say what is trained on, and no token sees the padding to its right.
    return next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)


def _measured_before(
    job: TrainingJob, model: Any, checkpoints: Checkpoints, progress: StepProgress
) -> list[RowLoss]:
    """Return the losses before training, which a resumed run reads from the disk."""
    known = checkpoints.before()
    if known is not None:
        return [RowLoss(**row) for row in known]
    losses = _measure(job, model, progress, "Loss before")
    if is_main_process():
        checkpoints.store_before([asdict(row) for row in losses])
    return losses


def _measure(job: TrainingJob, model: Any, progress: StepProgress, title: str) -> list[RowLoss]:
    """Return the losses of the held-out rows, followed by those of the sample of trained rows."""
    rows = [*job.data.held, *job.data.sample]
    # transformers leaves its autocast on a trained model: before and after are to differ by training alone
    lower = job.config.precision in _AUTOCAST
    cast = torch.autocast(model.device.type, _AUTOCAST.get(job.config.precision), enabled=lower)
    with cast, progress.step(title, len(rows)) as advance:
        return row_losses(model, rows, job.config.batch_size, advance)


def _run(
    config: FinetuneConfig,
    trainer: FinetuneTrainer,
    checkpoints: Checkpoints,
    state: RunState,
    step: AbstractContextManager[Advance],
) -> None:
    """Train from `state` to the end, and load the best weights if they are not the last."""
    checkpoint = checkpoints.path(state.step) if state.step else None
    stopped = config.early_stopping is not None and state.without_gain >= config.early_stopping
    if stopped and checkpoint:
        load_weights(trainer.model, checkpoint)
    else:
        with step as advance:
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
    job: TrainingJob, model: Any, state: RunState, before: list[RowLoss], after: list[RowLoss]
) -> FinetuneReport:
    data, held = job.data, len(job.data.held)
    return FinetuneReport(
        steps=state.step,
        seconds=state.seconds,
        train_chats=len(data.train),
        held_out_chats=held,
        truncated_chats=data.truncated,
        dropped_chats=data.dropped,
        trained_parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        trained_tokens=state.trained_tokens,
        train_loss_before=round(mean_loss(before[held:]), 4),
        train_loss=round(mean_loss(after[held:]), 4),
        held_out_loss_before=round(mean_loss(before[:held]), 4) if held else None,
        held_out_loss=round(mean_loss(after[:held]), 4) if held else None,
        best_step=state.best_step,
        evaluation=compare_in_memory(before[:held], after[:held]) if held else None,
    )
