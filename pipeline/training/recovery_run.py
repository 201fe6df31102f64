"""Train an adapter through the rounded base, in memory: the teacher's states first, then the distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file

from common.text import nan_to_none
from ggufio.ggml import BF16, F16, F32
from ggufio.ggml_reader import GgufTensors
from ggufio.summary import summarize
from pipeline.certificate.subject import text_config
from pipeline.certificate.tensors.layout import TensorMap
from pipeline.errors import InputError
from pipeline.evaluation.statistics import RowLoss, compare
from pipeline.evaluation.token_losses import mean_loss
from pipeline.progress import StepProgress
from pipeline.quantize.imatrix_file import UNWEIGHED, read_weights
from pipeline.training.base_model import load_model
from pipeline.training.checkpoints import Checkpoints, RunState
from pipeline.training.config import FinetuneConfig
from pipeline.training.distillation import (
    DistillationTrainer,
    Lesson,
    RoundedTrainer,
    Teacher,
    make_lessons,
)
from pipeline.training.recovery_job import Examples, Recovery, RecoveryJob
from pipeline.training.rounded_base import RoundedBase, RoundingPlan
from pipeline.training.run import run_training


@dataclass(frozen=True)
class RecoveredWeights:
    """The adapter's tensors as they are stored, and the digests of the file's tensors that they make."""

    state: Mapping[str, torch.Tensor]
    full_type: int
    digests: dict[str, str]


def run_recovery(
    job: RecoveryJob,
    config: FinetuneConfig,
    examples: Examples,
    checkpoints: Checkpoints,
    state: RunState,
    *,
    progress: StepProgress,
) -> tuple[Recovery, RecoveredWeights | None]:
    """Train from `state`, and return the figures and the weights; None where nothing was gained."""
    # Not in the base's 16 bits, which do not hold the rounded weight less the adapter.
    model = load_model(replace(config, precision="float32"), job.base, rounded=True)
    _without_dropout(model)
    full = GgufTensors(job.base_full or job.full)
    base = RoundedBase(model, _layout(job), _plan(job, full), config.threads or 1, apart=job.apart)
    base.check_against(full, exactly=job.apart or job.options.rank is None)
    options: dict[str, Any] = {
        "base": base,
        "every": job.refresh_every,
        "work": checkpoints.folder,
        "pad_id": examples.pad_id,
    }
    if job.options.labels:
        trainer = RoundedTrainer(config, model, examples.train, examples.held, **options)
    else:
        teacher = Teacher(model, base.original_head)
        lessons = _lessons(model, config, examples, progress)
        trainer = DistillationTrainer(config, model, *lessons, teacher=teacher, **options)
    before = _losses_before(trainer, checkpoints, progress)
    if state.best_loss is None:
        state.best_loss = mean_loss(before)
    run_training(config, trainer, checkpoints, state, progress)
    figures = Recovery(
        before=mean_loss(before),
        after=mean_loss(before),
        low=None,
        high=None,
        step=0,
        steps=state.step,
        chats=len(examples.train),
        held_out_chats=len(examples.held),
        own_answers=job.options.data is None,
        labels=job.options.labels,
        seconds=state.seconds,
    )
    if state.best_step is None:
        return figures, None
    stored = _stored(model, job)
    base.mark_stale()
    after = trainer.held_out_losses()
    gained = compare(before, after)
    certain = gained.gain > 0 and not gained.gain_low <= 0
    figures = replace(
        figures,
        after=mean_loss(after),
        low=nan_to_none(gained.gain_low),
        high=nan_to_none(gained.gain_high),
        step=state.best_step if certain else 0,
    )
    return figures, RecoveredWeights(stored, _full_type(full), base.digests()) if certain else None


def _lessons(
    model: Any, config: FinetuneConfig, examples: Examples, progress: StepProgress
) -> tuple[list[Lesson], list[Lesson]]:
    """Return what the teacher says to the chats to learn on, and to the held-out ones."""
    count = len(examples.train)
    with progress.step("Read the chats as tuned", count + len(examples.held)) as advance:
        train = make_lessons(model, examples.train, config.batch_size, advance)
        held = make_lessons(model, examples.held, config.batch_size, lambda done: advance(count + done))
    return train, held


def _layout(job: RecoveryJob) -> TensorMap:
    summary = summarize(job.full)
    assert summary is not None, f"{job.full} was just written"
    layout = TensorMap(summary.architecture, text_config(job.base.folder))
    if not layout.is_known:
        raise InputError(
            f"where llama.cpp keeps the weights of the architecture {summary.architecture!r} is not known "
            "here well enough to train through their rounding: export without --recover"
        )
    return layout


def _plan(job: RecoveryJob, full: GgufTensors) -> RoundingPlan:
    weights = read_weights(job.imatrix) if job.imatrix else UNWEIGHED
    return RoundingPlan(_full_type(full), job.plan.types, weights.importance)


def _full_type(full: GgufTensors) -> int:
    """Return the type of the unquantized file's matrices."""
    types = {tensor.type for tensor in full.tensors.values()}
    return next((dtype for dtype in (F16, BF16) if dtype in types), F32)


def _without_dropout(model: Any) -> None:
    """The teacher's words are the aim, not robustness; and the rounded sum holds without dropout only."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _losses_before(
    trainer: RoundedTrainer, checkpoints: Checkpoints, progress: StepProgress
) -> list[RowLoss]:
    """Return the held-out losses of plain rounding, which a resumed run reads from the disk."""
    known = checkpoints.before()
    if known is not None:
        return [RowLoss(nats, tokens) for nats, tokens in known]
    with progress.step("Measure plain rounding", None):
        found = trainer.held_out_losses()
    checkpoints.store_before([[row.nats, row.tokens] for row in found])
    return found


def _stored(model: Any, job: RecoveryJob) -> dict[str, torch.Tensor]:
    """Round the adapter to the type of its file, in the model too; return its tensors."""
    from peft import get_peft_model_state_dict

    types = {name: value.dtype for name, value in load_file(job.adapter.weights_file).items()}
    found: dict[str, torch.Tensor] = {}
    for name, weight in get_peft_model_state_dict(model).items():
        found[name] = weight.detach().to("cpu", types[name]).contiguous()
        weight.data.copy_(found[name])
    return found
