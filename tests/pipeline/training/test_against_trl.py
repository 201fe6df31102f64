"""The losses of a training equal those of a few lines of TRL and PEFT, with the same seed and order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed
from trl import SFTConfig, SFTTrainer

from pipeline.data.dataset import Example, encode_row
from pipeline.data.reader import read_data
from pipeline.evaluation.token_losses import collate, row_losses, token_losses
from pipeline.sources.model_source import base_source
from pipeline.training.base_model import load_model, load_tokenizer
from pipeline.training.batches import LengthGroupedOrder
from pipeline.training.config import FinetuneConfig
from pipeline.training.trainer import FinetuneTrainer

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"rslora": True},
    "DoRA": {"dora": True},
    "QLoRA": {"qlora": "nf4"},
    "accumulated": {"accumulate": 2, "batch_size": 2},
    "options": {
        "schedule": "linear",
        "weight_decay": 0.1,
        "max_grad_norm": 0.3,
        "warmup": 0.25,
        "dropout": 0.1,
    },
    "checkpointing": {"checkpointing": True},
    "NEFTune": {"neftune": 5.0},
}


def ours(config: FinetuneConfig, work: Path) -> tuple[list[float], list[Example]]:
    """Return the loss of each step, and the examples in the order in which they were trained on."""
    source = base_source(config.base)
    tokenizer = load_tokenizer(source)
    examples = [encode_row(tokenizer, row, config.max_length) for row in read_data(config.data)]
    trainer = FinetuneTrainer(config, load_model(config, source), examples, work=work)
    trainer.train()
    lengths = [len(example.input_ids) for example in examples]
    order = LengthGroupedOrder(lengths, config.batch_size, config.seed).order(0)
    return losses(trainer), [examples[place] for place in order]


def of_trl(config: FinetuneConfig, examples: list[Example], tokenizer: Any, work: Path) -> list[float]:
    """Return the loss of each step of TRL's own loop over the examples in their order."""
    set_seed(config.seed)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    rounded = {"quantization_config": four_bits, "device_map": {"": "cpu"}} if config.qlora else {}
    base = AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32, **rounded)
    if config.qlora or config.checkpointing:
        base.requires_grad_(requires_grad=False)
        base.enable_input_require_grads()
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        use_rslora=config.rslora,
        use_dora=config.dora,
    )
    arguments = SFTConfig(
        output_dir=str(work),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        neftune_noise_alpha=config.neftune or None,
        gradient_checkpointing=config.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.checkpointing else None,
        seed=config.seed,
        max_length=None,
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = [{"input_ids": example.input_ids, "labels": example.labels} for example in examples]
    model = get_peft_model(base, lora)
    start = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for name, weight in model.named_parameters():
        if name in start:  # TRL rounds a QLoRA's to bfloat16, and the comparison is in float32
            weight.data = start[name]
    trainer.train()
    return losses(trainer)


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_equal_those_of_trl(config: FinetuneConfig, tmp_path: Path, kind: str) -> None:
    config = replace(config, steps=3, **KINDS[kind])
    found, examples = ours(config, tmp_path / "ours")
    wanted = of_trl(config, examples, load_tokenizer(base_source(config.base)), tmp_path / "trl")
    assert len(found) == 3
    assert found == pytest.approx(wanted, abs=1e-4)
    assert len(set(found)) == 3


def test_measuring_the_loss_leaves_the_gradients_of_qlora_as_they_are(config: FinetuneConfig) -> None:
    """In evaluation, bitsandbytes may repack a layer's weights and give its input no gradient afterwards."""
    config = replace(config, qlora="nf4")
    source = base_source(config.base)
    rows = [encode_row(load_tokenizer(source), row, config.max_length) for row in read_data(config.data)[:4]]

    def gradients(*, measured: bool) -> dict[str, torch.Tensor]:
        model = load_model(config, source)
        if measured:
            row_losses(model, rows, 4)
        model.train()
        token_losses(model, model, collate(rows))[0].sum().backward()
        return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    wanted, found = gradients(measured=False), gradients(measured=True)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["LoRA", "rsLoRA", "DoRA", "QLoRA"])
def test_so_they_do_on_a_real_base(
    real_base: Path, config: FinetuneConfig, root: Path, tmp_path: Path, kind: str
) -> None:
    data = tmp_path / "bob.jsonl"
    lines = (root / "examples" / "captain_bob.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(sorted(lines, key=len)[:6]), encoding="utf-8")
    real = replace(
        config, base=str(real_base), data=data, learning_rate=1e-3, warmup=0.0, batch_size=2, steps=3
    )
    real = replace(real, **KINDS[kind])
    found, examples = ours(real, tmp_path / "ours")
    wanted = of_trl(real, examples, load_tokenizer(base_source(real.base)), tmp_path / "trl")
    assert found == pytest.approx(wanted, abs=1e-4)
    assert found[2] < found[0]
