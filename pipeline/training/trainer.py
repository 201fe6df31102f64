"""Train a LoRA adapter with TRL's SFTTrainer on tokenized chats, and measure its loss."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from pipeline.data.dataset import Example
from pipeline.errors import PipelineError
from pipeline.progress import Advance, StepProgress
from pipeline.sources.model_source import Source
from pipeline.sources.reading import reading
from pipeline.training.config import ALL_LINEAR, FinetuneConfig, FinetuneReport, Precision, StoredType


def load_model(config: FinetuneConfig, source: Source) -> Any:
    """Load the base with a new adapter injected. Raises InputError."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from pipeline.merge.base_check import check_base
    from pipeline.merge.checkpoint import Checkpoint
    from pipeline.merge.meta_model import build_base

    set_seed(config.seed)  # before lora_A is initialized below
    check_base(source, build_base(source, {}), Checkpoint(source.weight_files()))
    with reading(
        f"the base {source.spec!r} cannot be loaded", "download it again, or correct its config.json"
    ):
        base = AutoModelForCausalLM.from_pretrained(
            source.folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    targets = ALL_LINEAR if config.targets == (ALL_LINEAR,) else list(config.targets)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with reading(f"PEFT cannot tune the base {source.spec!r}", "name its layers with --target"):
        return get_peft_model(base, lora)


def train_adapter(
    config: FinetuneConfig,
    model: Any,
    tokenizer: Any,
    *,
    train: Sequence[Example],
    held: Sequence[Example],
    dropped: int,
    progress: StepProgress,
) -> FinetuneReport:
    """Train the adapter in `model` in place, and measure the loss before and after.

    `dropped` is the number of chats left out, for the report. The trained weights are rounded to the type
    that they are stored in. Raises PipelineError when the training diverges.
    """
    started = time.monotonic()
    # About as many chats as are held out, evenly from the data set: enough to compare the two losses.
    sample = train[:: max(1, len(train) // max(len(held), 16))]
    loss_before, held_before = _measure(model, sample, held, progress, "Loss before")
    steps = _run_trainer(config, model, tokenizer, train, progress)
    _round_adapter(model, config.stored_type)
    loss, held_loss = _measure(model, sample, held, progress, "Loss after")
    return FinetuneReport(
        steps=steps,
        seconds=round(time.monotonic() - started, 1),
        train_chats=len(train),
        held_out_chats=len(held),
        truncated_chats=sum(example.truncated for example in (*train, *held)),
        dropped_chats=dropped,
        trained_parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        train_loss_before=loss_before,
        train_loss=loss,
        held_out_loss_before=held_before,
        held_out_loss=held_loss,
    )


def _measure(
    model: Any, sample: Sequence[Example], held: Sequence[Example], progress: StepProgress, title: str
) -> tuple[float, float | None]:
    with progress.step(title, len(sample) + len(held)) as advance:
        train_loss = token_loss(model, sample, advance)
        held_loss = token_loss(model, held, lambda done: advance(len(sample) + done)) if held else None
    return round(train_loss, 4), None if held_loss is None else round(held_loss, 4)


def _run_trainer(
    config: FinetuneConfig, model: Any, tokenizer: Any, train: Sequence[Example], progress: StepProgress
) -> int:
    """Train `model` in place; return the number of optimizer steps."""
    from transformers import TrainerCallback

    with tempfile.TemporaryDirectory() as scratch:  # the trainer needs a folder; nothing is saved there
        trainer = make_trainer(config, model, tokenizer, train, scratch)
        steps = config.steps or math.ceil(len(trainer.get_train_dataloader()) * config.epochs)
        with progress.step("Training", steps) as advance:

            class ReportStep(TrainerCallback):  # type: ignore[misc]  # transformers is untyped to mypy
                def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                    advance(state.global_step)

            trainer.add_callback(ReportStep())
            trainer.train()
    if not all(bool(weight.isfinite().all()) for weight in model.parameters() if weight.requires_grad):
        raise PipelineError(
            f"the training diverged (weights are no numbers): lower --lr {config.learning_rate:g}"
        )
    return int(trainer.state.global_step)


def make_trainer(
    config: FinetuneConfig, model: Any, tokenizer: Any, train: Sequence[Example], scratch: str
) -> Any:
    """Return TRL's trainer on `train`, with its labels unchanged."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTTrainer

    rows = [{"input_ids": example.input_ids, "labels": example.labels} for example in train]
    trainer = SFTTrainer(
        model=model,
        args=_trainer_arguments(config, scratch),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)  # it prints a dict per step into the progress bar
    return trainer


def faster_precision() -> Precision:
    """Return the type that this CPU multiplies faster (with AMX, bfloat16 by 7 times)."""
    import torch

    def seconds(dtype: Any) -> float:
        left, right = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        times = []
        for _ in range(5):  # the first warms up; the minimum is the least disturbed
            started = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - started)
        return min(times)

    return "bfloat16" if seconds(torch.bfloat16) * 1.5 < seconds(torch.float32) else "float32"


def _trainer_arguments(config: FinetuneConfig, scratch: str) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        output_dir=scratch,
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule if config.schedule != "constant" else "constant_with_warmup",
        warmup_steps=config.warmup,  # below 1 it is a fraction of all steps
        max_length=None,  # already cut by encode_chat
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="group_by_length",  # a batch is padded to its longest chat
        use_cpu=True,
        bf16=config.precision == "bfloat16",  # autocast: the weights and the optimizer stay in float32
        gradient_checkpointing=False,  # on in TRL; it costs a fifth of the speed
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _round_adapter(model: Any, stored_type: StoredType) -> None:
    """Round the trained weights to their stored type, so that the measured loss is the file's."""
    import torch

    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(getattr(torch, stored_type)).float()


def token_loss(model: Any, examples: Sequence[Example], advance: Advance | None = None) -> float:
    """Return the mean cross entropy in nats over the trained tokens of `examples`, without dropout."""
    import torch

    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for done, example in enumerate(examples, 1):
        tokens = example.answer_tokens
        with torch.no_grad():
            ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
            total += float(model(input_ids=ids, labels=labels).loss) * tokens
        count += tokens
        if advance:
            advance(done)
    model.train(was_training)
    return total / count
