"""One training for `bench.train`, in a process of its own: ours, TRL's, or a plain loop.

Run as `python -m bench.train_run WAY BASE DATA ROWS BATCH THREADS RESULT.json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, set_seed

from common.system import process_memory
from ggufio.ggml import F16, type_number
from pipeline.certificate.subject import text_config
from pipeline.certificate.tensors.layout import TensorMap
from pipeline.data.dataset import Example, encode_row
from pipeline.data.reader import read_data
from pipeline.evaluation.token_losses import collate
from pipeline.sources.model_source import base_source
from pipeline.training.base_model import load_model, load_tokenizer
from pipeline.training.batches import LengthGroupedOrder
from pipeline.training.config import FinetuneConfig, Precision
from pipeline.training.device import settled
from pipeline.training.distillation import DistillationTrainer, RoundedTrainer, Teacher, make_lessons
from pipeline.training.recovery_config import refresh_every
from pipeline.training.rounded_base import RoundedBase, RoundingPlan
from pipeline.training.trainer import FinetuneTrainer

RATE = 3e-4


@dataclass(frozen=True)
class Task:
    """What is trained: a base, its tokenizer, the rows, those of a batch; and a folder to write to."""

    base: str
    tokenizer: Any
    examples: Sequence[Example]
    batch: int
    work: Path


def main(words: list[str]) -> None:
    """Train for one epoch; write tokens, CPU seconds of the training alone and peak memory to RESULT.json."""
    way, base, data, rows, batch, threads, result = words
    torch.set_num_threads(int(threads))
    source = base_source(base)
    tokenizer = load_tokenizer(source)
    examples = [encode_row(tokenizer, row, 1024) for row in read_data(data)[: int(rows)]]
    with tempfile.TemporaryDirectory() as work:
        train = WAYS[way](Task(base, tokenizer, examples, int(batch), Path(work)))
        started = time.process_time()
        losses = train()
        seconds = time.process_time() - started
    found = {
        "tokens": sum(len(example.input_ids) for example in examples),
        "cpu_seconds": seconds,
        "peak_bytes": process_memory("VmHWM"),
        "last_loss": losses[-1],
    }
    Path(result).write_text(json.dumps(found))


def ours(task: Task) -> Callable[[], list[float]]:
    """Return our training in float32."""
    return _ours(task, "float32")


def ours_by_default(task: Task) -> Callable[[], list[float]]:
    """Return our training in the precision that multiplies faster here."""
    return _ours(task, "auto")


def rounded(task: Task) -> Callable[[], list[float]]:
    """Return our training in float32 on the labels, through the base rounded to Q4_0."""
    config, model = _loaded(task, "float32")
    base = _rounded_base(task, model)
    trainer = RoundedTrainer(
        config, model, task.examples, (), base=base, every=_REFRESH, work=task.work, pad_id=0
    )
    return lambda: _trained(trainer)


def distilled(task: Task) -> Callable[[], list[float]]:
    """Return a recovery in float32: the teacher reads each chat once, which is part of the training."""
    config, model = _loaded(task, "float32")
    base = _rounded_base(task, model)

    def train() -> list[float]:
        lessons = make_lessons(model, task.examples, task.batch, lambda _: None)
        teacher = Teacher(model, base.original_head)
        trainer = DistillationTrainer(
            config,
            model,
            lessons,
            (),
            teacher=teacher,
            base=base,
            every=_REFRESH,
            work=task.work,
            pad_id=0,
        )
        return _trained(trainer)

    return train


_REFRESH = refresh_every(("Q4_0", "Q8_0"))


def _rounded_base(task: Task, model: Any) -> RoundedBase:
    """Return the base with the types of a Q4_0 file: Q4_0, and Q8_0 for embeddings and head."""
    settings = text_config(Path(task.base))
    layout = TensorMap(str(settings["model_type"]), settings)
    names = (name.replace(".base_layer.", ".") for name, value in model.named_parameters() if value.ndim > 1)
    found = (layout.location(name.removeprefix("base_model.model.")) for name in names)
    tensors = [location.tensor for location in found if location is not None]
    types = {name: type_number("Q4_0" if name.startswith("blk.") else "Q8_0") for name in tensors}
    return RoundedBase(model, layout, RoundingPlan(F16, types))


def _ours(task: Task, precision: Precision) -> Callable[[], list[float]]:
    config, model = _loaded(task, precision)
    trainer = FinetuneTrainer(config, model, task.examples, work=task.work)
    return lambda: _trained(trainer)


def _loaded(task: Task, precision: Precision) -> tuple[FinetuneConfig, Any]:
    config = settled(
        FinetuneConfig(
            base=task.base,
            data="-",
            out=task.work / "out",
            batch_size=task.batch,
            epochs=1,
            precision=precision,
            device="cpu",
        )
    )
    return config, load_model(config, base_source(task.base))


def trl_defaults(task: Task) -> Callable[[], list[float]]:
    """Return TRL's training with its own defaults."""
    return _trl(task)


def trl_tuned(task: Task) -> Callable[[], list[float]]:
    """Return TRL's training in float32, without checkpointing, with rows grouped by length."""
    options = {"bf16": False, "gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
    return _trl(task, **options)


def plain_loop(task: Task) -> Callable[[], list[float]]:
    """Return a loop of a few lines over torch and PEFT, with transformers' own loss."""
    set_seed(42)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(task.base, dtype=torch.float32), _lora())
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], RATE)
    order = LengthGroupedOrder([len(one.input_ids) for one in task.examples], task.batch, 42).order(0)

    def train() -> list[float]:
        losses = []
        model.train()
        for start in range(0, len(order), task.batch):
            rows = collate([task.examples[place] for place in order[start : start + task.batch]])
            loss = model(input_ids=rows["input_ids"], labels=rows["labels"], use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
        return losses

    return train


WAYS = {
    "ours": ours,
    "ours-default": ours_by_default,
    "rounded": rounded,
    "distilled": distilled,
    "trl": trl_defaults,
    "trl-tuned": trl_tuned,
    "plain": plain_loop,
}


def _trl(task: Task, **options: Any) -> Callable[[], list[float]]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    set_seed(42)
    arguments = SFTConfig(
        output_dir=str(task.work),
        num_train_epochs=1,
        per_device_train_batch_size=task.batch,
        learning_rate=RATE,
        max_length=None,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    rows = [{"input_ids": example.input_ids, "labels": example.labels} for example in task.examples]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(task.base, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=task.tokenizer,
        peft_config=_lora(),
    )
    return lambda: _trained(trainer)


def _lora() -> Any:
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def _trained(trainer: Any) -> list[float]:
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    main(sys.argv[1:])
