"""--rank: an adapter with more dimensions in all linear layers, which says what it said before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.training.widened import widened
from tests.pipeline.recovering import write_folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    write_folders(folder)
    return folder


def _adapter(folders: Path, folder: Path, **options: Any) -> Path:
    """Write the adapter with its q and v projections alone, with the options given; return its folder."""
    folder.mkdir()
    tensors = load_file(folders / "adapter" / "adapter_model.safetensors")
    kept = {name: value.float() for name, value in tensors.items() if "q_proj" in name or "v_proj" in name}
    save_file(kept, folder / "adapter_model.safetensors")
    config = json.loads((folders / "adapter" / "adapter_config.json").read_text())
    config |= {"target_modules": ["q_proj", "v_proj"], **options}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _logits(folders: Path, adapter: Path) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(folders / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(torch.arange(1, 21)[None]).logits
    return logits


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"alpha_pattern": {"v_proj": 3}}],
    ids=["lora", "rslora", "alpha_pattern"],
)
def test_it_says_the_same_and_reaches_all_layers(
    folders: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    before = _adapter(folders, tmp_path / "before", **options)
    adapter, base = read_adapter(adapter_source(str(before))), base_source(str(folders / "base"))
    wide = widened(adapter, base, 8, 42, tmp_path / "wide")
    assert torch.allclose(_logits(folders, wide.folder), _logits(folders, before), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(
        _logits(folders, before), _logits(folders, folders / "adapter"), rtol=1e-3, atol=1e-3
    )
    shapes = {name: tuple(info.shape) for name, info in wide.tensors.items()}
    path = "base_model.model.model.layers.1"
    assert len(shapes) == 2 * 2 * 7
    assert shapes[f"{path}.self_attn.q_proj.lora_A.weight"] == (12, 256)
    assert shapes[f"{path}.mlp.down_proj.lora_B.weight"] == (256, 8)
    assert wide.rank == 12


def test_the_seed_decides_and_a_written_folder_is_read(folders: Path, tmp_path: Path) -> None:
    before = _adapter(folders, tmp_path / "before")
    adapter, base = read_adapter(adapter_source(str(before))), base_source(str(folders / "base"))
    files = [
        widened(adapter, base, 4, seed, tmp_path / name).weights_file
        for name, seed in (("a", 1), ("b", 1), ("c", 2), ("a", 3))
    ]
    first, same, other, read = (file.read_bytes() for file in files)
    assert first == same == read
    assert first != other
