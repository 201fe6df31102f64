"""A base on a type's grid is recognized before any work, and keeps its numbers through an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ggufio.ggml import BF16, F16, F32, Floats, dequantize, ggml_type_named, quantize
from ggufio.ggml_reader import GgufTensors, rounded_to
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.quantize.grid_survey import distinct_levels, grid_of, is_on_grid, survey_checkpoint
from tests.pipeline.tiny import make_adapter, make_base

_TYPES = ("TQ2_0", "Q2_K", "Q3_K", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0")


def weights(seed: int = 0) -> Floats:
    return (np.random.default_rng(seed).standard_normal((16, 512)) * 0.02).astype(np.float32)


def on_grid(rows: Floats, name: str) -> Floats:
    kind = ggml_type_named(name)
    return dequantize(kind, quantize(kind, rows)).reshape(rows.shape)


@pytest.mark.parametrize("stored", [F32, F16, BF16])
def test_the_type_of_a_dequantized_tensor_is_known_from_its_numbers(stored: int) -> None:
    found = {name: grid_of(rounded_to(on_grid(weights(), name), stored)) for name in _TYPES}
    assert found == {name: name for name in _TYPES}


@pytest.mark.parametrize("stored", [F32, F16, BF16])
def test_ordinary_weights_lie_on_no_grid(stored: int) -> None:
    rows = rounded_to(weights(), stored)
    assert grid_of(rows) == ""
    assert not any(is_on_grid(rows, name) for name in _TYPES)
    assert not is_on_grid(np.zeros_like(rows), "Q4_0") and not is_on_grid(rows[:, :96], "Q4_K")
    assert distinct_levels(on_grid(rows, "Q4_0")) == 16 < distinct_levels(rows)


def rounded_base(folder: Path, rounded: Callable[[Floats], Floats]) -> Path:
    """A tiny base in bfloat16 whose layers' matrices are rounded."""
    make_base(folder, dtype=torch.bfloat16, vocab_size=320)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            tensors[name] = torch.tensor(rounded(tensor.float().numpy())).bfloat16()
    save_file(tensors, file, {"format": "pt"})
    return folder


def without_lowest_level(rows: Floats) -> Floats:
    """Rows on Q4_0's grid whose blocks have no level -8: what llama.cpp's quantizer cannot return."""
    blocks = rows.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True).clip(1e-3)
    scale = (largest / 7).astype(np.float16).astype(np.float32)
    return (scale * np.rint(blocks / scale).clip(-7, 7)).reshape(rows.shape)


def test_a_survey_says_what_a_grid_means(tmp_path: Path) -> None:
    plain = make_base(tmp_path / "plain", dtype=torch.bfloat16, vocab_size=320)
    assert survey_checkpoint([plain / "model.safetensors"]).notes(tuned=True) == ()
    base = rounded_base(tmp_path / "base", without_lowest_level)
    survey = survey_checkpoint([base / "model.safetensors"])
    assert (survey.type, survey.types, survey.sampled) == ("Q4_0", {"Q4_0": 14}, 14)
    (note,), (untuned,) = survey.notes(tuned=True), survey.notes(tuned=False)
    assert "on Q4_0's grid (14 of 14 matrices" in note and "use Q8_0" in note
    assert "keeps them exactly" in untuned and "adapter" not in untuned


@pytest.mark.slow
def test_tensors_without_an_adapter_keep_the_bases_numbers_bit_for_bit(tmp_path: Path) -> None:
    base = rounded_base(tmp_path / "base", without_lowest_level)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    result = export(
        ExportConfig(str(base), tmp_path / "out", (str(adapter),), ("Q4_0",), threads=1, verify="off")
    )
    assert any("lie on Q4_0's grid" in note for note in result.notes)
    file, stored = GgufTensors(result.paths[0]), load_file(base / "model.safetensors")
    names = {"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.down_proj": "ffn_down"}
    for layer in range(2):
        for name, ours in {**names, "self_attn.q_proj": "attn_q"}.items():
            tensor = file.tensors[f"blk.{layer}.{ours}.weight"]
            values = rounded_to(file.read(tensor.name, 0, tensor.rows), BF16)
            true = stored[f"model.layers.{layer}.{name}.weight"].float().numpy()
            assert np.array_equal(values, true) == (ours != "attn_q"), tensor.name
