from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.adapter import read_adapter
from pipeline.errors import InputError
from pipeline.source import adapter_source

REFUSED: dict[str, dict[str, Any]] = {
    "LOHA": {"peft_type": "LOHA"},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "bias='all'": {"bias": "all"},
    "lora_bias": {"lora_bias": True},
    "target_parameters": {"target_parameters": ["mlp.experts"]},
    "trainable_token_indices": {"trainable_token_indices": [1, 2]},
    "layer_replication": {"layer_replication": [[0, 2]]},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5]},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "pissa": {"init_lora_weights": "pissa"},
}


def write(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    save_file(
        tensors or {"a.lora_A.weight": np.zeros((4, 8), np.float32)}, folder / "adapter_model.safetensors"
    )
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_exactly_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", **REFUSED[name])
    with pytest.raises(InputError, match=name):
        read_adapter(adapter_source(str(folder)))


def test_lora_on_an_embedding_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", {"embed.lora_embedding_A": np.zeros((4, 8), np.float32)})
    with pytest.raises(InputError, match="embedding"):
        read_adapter(adapter_source(str(folder)))


def test_kind_and_rank(tmp_path: Path) -> None:
    adapter = read_adapter(adapter_source(str(write(tmp_path / "adapter", use_rslora=True, use_dora=True))))
    assert (adapter.kind, adapter.rank) == ("rsLoRA + DoRA", 4)


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
