"""The memory that a training needs, told before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.errors import InputError
from pipeline.sources.model_source import Source
from pipeline.training.config import FinetuneConfig
from pipeline.training.finetune import finetune
from pipeline.training.memory import needed_memory, require_memory

GIB = 1 << 30


@pytest.fixture(scope="module")
def seven_billion() -> Any:
    """Llama 2 7B's shape."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            LlamaConfig(
                hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
            )
        )


CONFIG = FinetuneConfig(base="b", data="d", out=Path("o"), precision="bfloat16", device="cuda", batch_size=1)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({}, 12.5, 15),  # 6.74 billion weights of two bytes
        ({"precision": "float32"}, 25, 28),
        ({"qlora": "nf4", "checkpointing": True}, 3.4, 5),  # QLoRA's paper: a 7B model in about 5 GB
        ({"full": True}, 100, 110),
        ({"batch_size": 16}, 20, 35),
    ],
)
def test_the_estimate_is_near_what_is_known(
    seven_billion: Any, options: dict[str, Any], low: float, high: float
) -> None:
    config = replace(CONFIG, **options)
    dtype = "float32" if config.precision == "float32" or config.full else "bfloat16"
    assert low <= needed_memory(config, seven_billion, dtype) / GIB <= high


def test_short_rows_and_a_smaller_optimizer_need_less(seven_billion: Any) -> None:
    def needed(row_tokens: int = 256, **options: Any) -> float:
        return needed_memory(replace(CONFIG, **options), seven_billion, "float32", row_tokens) / GIB

    assert needed(32, batch_size=16) == pytest.approx(needed(256, batch_size=2), abs=1e-6)
    assert needed(5000, max_length=64) == needed(64, max_length=64)
    whole, eight_bits, paged = (
        needed(full=True, optimizer=name) for name in ("adamw", "adamw-8bit", "paged-adamw")
    )
    weights = 6.738e9 / GIB
    assert whole - eight_bits == pytest.approx(6 * weights, rel=1e-3)
    assert whole - paged == pytest.approx(8 * weights, rel=1e-3)


def test_a_base_that_does_not_fit_is_told_with_the_way_out(
    seven_billion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.memory.free_memory", lambda **_: 16 * GIB)
    source, config = Source("me/seven", Path("/none"), None), replace(CONFIG, device="cpu", batch_size=4)
    with pytest.raises(
        InputError,
        match=r"training 'me/seven' needs about 3\d\.\d GB and 17\.2 GB are free: use --qlora nf4 or "
        r"--checkpointing or a smaller --batch-size with --accumulate or a smaller base",
    ):
        require_memory(config, source, seven_billion, "float32")
    require_memory(replace(config, qlora="nf4", checkpointing=True), source, seven_billion, "float32")


def test_a_rounded_base_is_counted_with_what_it_was_before(
    seven_billion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, device="cpu", precision="float32")
    needed = needed_memory(config, seven_billion, "float32")
    more = 2 * 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 4 * 32000 * 4096
    source = Source("me/seven", Path("/none"), None)
    monkeypatch.setattr("pipeline.training.memory.free_memory", lambda **_: needed + more - 1)
    require_memory(config, source, seven_billion, "float32")
    with pytest.raises(InputError, match="are free: use a smaller --batch-size or base"):
        require_memory(config, source, seven_billion, "float32", rounded=True)
    monkeypatch.setattr("pipeline.training.memory.free_memory", lambda **_: needed + more)
    require_memory(config, source, seven_billion, "float32", rounded=True)


def test_nothing_is_loaded_or_written_before(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.setattr("pipeline.training.memory.free_memory", lambda **_: 1000)
    with pytest.raises(InputError, match=r"needs about .* GB and 0\.0 GB are free"):
        finetune(config)
    assert not list(config.out.parent.iterdir())
