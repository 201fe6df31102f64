from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import InputError
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source

pytestmark = pytest.mark.slow


def write(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    save_file(
        tensors or {"a.lora_A.weight": np.zeros((4, 8), np.float32)}, folder / "adapter_model.safetensors"
    )
    return folder


def test_what_cannot_be_merged_exactly_is_refused_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", peft_type="PREFIX_TUNING")
    with pytest.raises(InputError, match=r"PREFIX_TUNING.*train a LoRA instead"):
        read_adapter(adapter_source(str(folder)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("init_lora_weights", 5),
        ("r", True),
        ("r", "x"),
        ("lora_alpha", []),
        ("bias", 7),
        ("rank_pattern", 5),
        ("target_modules", 5),
        ("use_dora", "maybe"),
        ("trainable_token_indices", "x"),
        ("trainable_token_indices", {"embed_tokens": ["x"]}),
        ("trainable_token_indices", {"embed_tokens": 3}),
        ("token_indices", [[1]]),
    ],
)
def test_a_value_that_peft_does_not_write_is_named(tmp_path: Path, field: str, value: object) -> None:
    folder = write(tmp_path / "adapter", **{field: value})
    with pytest.raises(InputError, match=rf"adapter' has {field} = .*save the adapter again"):
        read_adapter(adapter_source(str(folder)))


def test_other_safetensors_beside_the_adapter_are_none_of_its_tensors(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    save_file({"step": np.zeros(1, np.float32)}, folder / "optimizer.safetensors")
    assert list(read_adapter(adapter_source(str(folder))).tensors) == ["a.lora_A.weight"]


def test_kind_and_rank(tmp_path: Path) -> None:
    adapter = read_adapter(adapter_source(str(write(tmp_path / "adapter", use_rslora=True, use_dora=True))))
    assert (adapter.kind, adapter.rank) == ("rsLoRA + DoRA", 4)
    other = read_adapter(adapter_source(str(write(tmp_path / "other", peft_type="IA3", r=None))))
    assert (other.kind, other.rank) == ("IA3", 0)


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"pickle \(adapter_model\.bin\).*save_file"):
        adapter_source(str(folder))


def test_the_conversion_command_works(tmp_path: Path, python: str) -> None:
    import re
    import shlex
    import subprocess

    import torch
    from safetensors.torch import load_file

    folder = write(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"a.lora_A.weight": torch.ones(4, 8)}, folder / "adapter_model.bin")
    with pytest.raises(InputError) as refused:
        adapter_source(str(folder))
    command = re.search(r"`(.*)`", str(refused.value))
    assert command is not None
    subprocess.run([python, *shlex.split(command[1])[1:]], check=True)
    assert torch.equal(load_file(folder / "adapter_model.safetensors")["a.lora_A.weight"], torch.ones(4, 8))
