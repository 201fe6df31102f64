"""transformers' Trainer with the loss on trained tokens, and batches in an order that the seed decides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from pipeline.data.dataset import Example
from pipeline.errors import InputError
from pipeline.evaluation.token_losses import collate, mean_loss, on_device, row_losses, token_losses
from pipeline.training.batches import LengthGroupedOrder, PackedRow, collate_packed
from pipeline.training.config import FinetuneConfig

_SCHEDULERS = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "cosine-restarts": "cosine_with_restarts",
    "plateau": "reduce_lr_on_plateau",
}
_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw-8bit": "adamw_8bit",
    "paged-adamw": "paged_adamw_32bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
}
_PLATEAU = {"factor": 0.5, "patience": 2}
"""The rate is halved when the held-out loss has not improved in three evaluations."""


class FinetuneTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped to mypy
    """Trains on Examples, or with `packing` on rows of them; measures the loss on `held`."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: Any,
        rows: Sequence[Example] | Sequence[PackedRow],
        held: Sequence[Example] = (),
        *,
        work: Path,
        pad_id: int = 0,
    ) -> None:
        self._config = config
        self._held = held
        self.tokens = 0
        """Tokens seen in training, without padding."""
        self.trained_tokens = 0
        self._lengths = [row.length if isinstance(row, PackedRow) else len(row.input_ids) for row in rows]
        join = collate_packed if config.packing else collate
        super().__init__(
            model=model,
            args=training_arguments(config, work),
            train_dataset=rows,
            eval_dataset=held or None,
            data_collator=lambda batch: join(batch, pad_id),
        )
        self.remove_callback(PrinterCallback)  # it prints a dict for each step
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the whole step
        self._loss_shifts_labels = True

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedOrder:
        return LengthGroupedOrder(self._lengths, self.args.train_batch_size, self._config.seed)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the loss's share of the step's mean over its trained tokens, in all of its batches."""
        losses = self.token_losses(model, inputs)
        self._count(inputs["lengths"].sum(), losses.numel())
        # Gradients are averaged over processes, and the count is of all of them.
        loss: torch.Tensor = losses.sum() * self.args.world_size / num_items_in_batch
        return loss

    def token_losses(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss at each trained token of a batch, in nats."""
        return token_losses(model, self.accelerator.unwrap_model(model), inputs)[0]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the weights; a whole model's by its modules' names, by which a checkpoint is loaded again.

        A published checkpoint may have others: one for each expert, where the module has one for all.
        """
        if isinstance(self.model, PreTrainedModel):
            self.model.save_pretrained(
                output_dir, is_main_process=self.args.should_save, save_original_format=False
            )
        else:
            super()._save(output_dir, state_dict)

    def _count(self, tokens: torch.Tensor, trained: int) -> None:
        counted = torch.stack([tokens, tokens.new_tensor(trained)])
        if self.args.world_size > 1:
            counted = self.accelerator.reduce(counted)
        self.tokens += int(counted[0])
        self.trained_tokens += int(counted[1])

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Train on one batch. Raises InputError when its loss is no number."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not loss.isfinite():
            raise InputError(diverged(self._config, self.state.global_step + 1))
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the held-out loss in nats a trained token, and tell the callbacks."""
        loss = self._held_out_loss()
        if self.args.world_size > 1:  # processes that round differently would not stop at the same step
            shared = torch.tensor(loss, dtype=torch.float32, device=self.args.device)
            loss = float(broadcast(shared))
        metrics = {"eval_loss": loss}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _held_out_loss(self) -> float:
        return mean_loss(row_losses(self.model, self._held, self._config.batch_size))


def diverged(config: FinetuneConfig, step: int) -> str:
    """Return the message for a loss that is no number."""
    ways = [f"a lower --lr than {config.rate:g}"]
    if config.precision == "float16":
        ways.append("--precision bfloat16")
    if config.warmup < 0.05:
        ways.append("--warmup 0.05")
    return f"the training diverged at step {step} (the loss is no number): try {' or '.join(ways)}"


def training_arguments(config: FinetuneConfig, work: Path) -> Any:
    """Return the options in transformers' terms; checkpoints go to `work`."""
    # Not the work folder, which is removed at the end.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(config.out.with_name(f"{config.out.name}-runs")))
    schedule_options = {"cosine-restarts": {"num_cycles": config.cycles}, "plateau": _PLATEAU}
    evaluates = config.eval_every is not None
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.rate,
        lr_scheduler_type=_SCHEDULERS[config.schedule],
        lr_scheduler_kwargs=schedule_options.get(config.schedule, {}),
        warmup_steps=config.warmup,  # below 1 it is a fraction of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=_OPTIMIZERS[config.optimizer],
        neftune_noise_alpha=config.neftune or None,
        bf16=config.precision == "bfloat16",  # autocast: trained weights and the optimizer stay in float32
        fp16=config.precision == "float16",
        gradient_checkpointing=config.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.checkpointing else None,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=config.device == "cpu",
        dataloader_pin_memory=config.device == "cuda",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.eval_every,
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False if evaluates else None,
        save_strategy="steps" if config.save_every else "no",
        save_steps=config.save_every or 500,
        logging_steps=1,
        run_name=config.out.resolve().name,
        report_to=list(config.trackers) or "none",
        disable_tqdm=True,
    )


def load_weights(model: Any, folder: Path) -> None:
    """Load the trained weights of a checkpoint into the model."""
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    state = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, state)
    else:
        unknown = model.load_state_dict(state, strict=False).unexpected_keys  # a tied head is not stored
        if unknown:
            raise ValueError(f"{folder} has weights that the model has not: {', '.join(unknown[:3])}")
        model.tie_weights()


def reject_mixed_packing(model: Any, examples: Sequence[Example]) -> None:
    """Raise InputError where the model lets packed chats see each other, which changes their losses."""
    two = sorted(examples, key=lambda one: len(one.input_ids))[:2]
    apart = sum(row.nats for row in row_losses(model, two, 1))
    with torch.no_grad():
        model.eval()
        batch = on_device(collate_packed([PackedRow(tuple(two))]), model)
        losses, _ = token_losses(model, model, batch)
        model.train()
    tolerance = 1e-4 if model.dtype == torch.float32 else 1e-2
    if abs(float(losses.sum()) - apart) > tolerance * max(1.0, apart):
        raise InputError(
            "--packing does not work with this base: its attention would mix the chats of a row; leave it out"
        )
