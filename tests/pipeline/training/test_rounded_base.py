"""Training's rounded weights are those of the exported file, bit for bit, for every type on offer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ggufio.ggml import F16
from ggufio.ggml_reader import GgufTensors
from ggufio.summary import summarize
from pipeline.certificate.subject import text_config
from pipeline.certificate.tensors.layout import TensorMap
from pipeline.convert.job import ConvertJob
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.errors import InputError
from pipeline.quantize.imatrix_file import UNWEIGHED, ImportanceWeights
from pipeline.quantize.types import _TYPES as QUANTS
from pipeline.quantize.worker import dry_run
from pipeline.quantize.writer import WriteJob, write_quantized
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.training.rounded_base import RoundedBase, RoundingPlan
from tests.pipeline.converting import convert_all
from tests.pipeline.recovering import write_folders
from tests.pipeline.tiny import make_adapter, make_base

pytestmark = pytest.mark.slow

ARCHITECTURES = ("llama", "phi3", "gemma2", "qwen2", "qwen3", "mixtral")
_WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": 32000}
_PHI3 = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "original_max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, root: Path, python: str) -> dict[str, Path]:
    """A folder of each architecture: `base`, `adapter`, and full.gguf, the tuned model unquantized."""
    folders, jobs = {}, []
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp("rounded") / architecture
        base, adapter = folder / "base", folder / "adapter"
        if architecture == "llama":  # with a small vocabulary, as it is quantized to every type
            write_folders(folder)
        else:
            make_base(base, architecture, **_WIDE, **(_PHI3 if architecture == "phi3" else {}))
            make_adapter(adapter, base, target_modules=_targets(architecture))
        jobs.append(
            ConvertJob(
                base_source(str(base)),
                (read_adapter(adapter_source(str(adapter))),),
                "f16",
                folder / "full.gguf",
                architecture,
                ensure_toolchain(),
                1,
            )
        )
        folders[architecture] = folder
    convert_all(jobs, root, python)
    return folders


def _targets(architecture: str) -> Any:
    return ["q_proj", "v_proj"] if architecture == "mixtral" else "all-linear"


def _base(folder: Path, plan: RoundingPlan) -> tuple[RoundedBase, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True)
    summary = summarize(folder / "full.gguf")
    assert summary is not None
    return RoundedBase(model, TensorMap(summary.architecture, text_config(folder / "base")), plan), model


def _importance(full: Path) -> ImportanceWeights:
    random = np.random.default_rng(3)
    tensors = GgufTensors(full).tensors.values()
    return ImportanceWeights(
        {
            one.name: random.uniform(0.01, 4, (1, one.width)).astype(np.float32)
            for one in tensors
            if one.rows > 1 and one.name.startswith("blk.")
        }
    )


def _assert_equal(folder: Path, quant: str, weights: ImportanceWeights, target: Path) -> None:
    full = folder / "full.gguf"
    ftype = QUANTS[quant].ftype
    types = dry_run(str(full), ftype, importance=weights.importance).types
    write_quantized(WriteJob(full, target, types, ftype, 1, weights=weights), lambda _: None)
    base, _ = _base(folder, RoundingPlan(F16, types, weights.importance))
    base.check_against(GgufTensors(full))
    base.refresh()
    file = GgufTensors(target)
    for name, values in base.rounded():
        stored = file.read(name, 0, file.tensors[name].rows)
        # the sum of the rounded weight less the adapter and the adapter rounds once more, in float32
        np.testing.assert_allclose(values, stored, rtol=0, atol=1e-7, err_msg=name)
    for name, digest in base.digests().items():
        assert hashlib.sha256(file.raw(name).data).hexdigest() == digest, name
    matrices = {name for name, one in file.tensors.items() if one.rows > 1}
    assert matrices == base.digests().keys()


@pytest.mark.parametrize("quant", [name for name, one in QUANTS.items() if not one.needs_imatrix])
def test_every_type(models: dict[str, Path], quant: str, tmp_path: Path) -> None:
    _assert_equal(models["llama"], quant, UNWEIGHED, tmp_path / "file.gguf")


@pytest.mark.parametrize("quant", QUANTS)
def test_every_type_with_an_importance_matrix(models: dict[str, Path], quant: str, tmp_path: Path) -> None:
    folder = models["llama"]
    _assert_equal(folder, quant, _importance(folder / "full.gguf"), tmp_path / "file.gguf")


@pytest.mark.parametrize("architecture", [one for one in ARCHITECTURES if one not in ("llama", "mixtral")])
def test_other_architectures(models: dict[str, Path], architecture: str, tmp_path: Path) -> None:
    _assert_equal(models[architecture], "Q4_0", UNWEIGHED, tmp_path / "file.gguf")


def test_refresh_follows_the_adapter(models: dict[str, Path]) -> None:
    folder = models["llama"]
    types = dry_run(str(folder / "full.gguf"), QUANTS["Q4_0"].ftype).types
    base, model = _base(folder, RoundingPlan(F16, types))
    base.refresh()
    before = dict(base.rounded())
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.add_(0.5)
    base.refresh()  # nobody said that it is stale
    moved = dict(base.rounded())["blk.0.attn_q.weight"]
    base.mark_stale()
    base.refresh()
    after = dict(base.rounded())
    changed = [name for name, values in after.items() if not np.allclose(values, before[name], atol=1e-6)]
    assert changed == ["blk.0.attn_q.weight"]
    levels = np.unique(np.round(after["blk.0.attn_q.weight"][0, :32], 6))
    assert len(levels) <= 16 < len(np.unique(np.round(moved[0, :32], 6)))


def test_a_file_of_another_model_is_refused(models: dict[str, Path]) -> None:
    folder = models["llama"]
    types = dry_run(str(folder / "full.gguf"), QUANTS["Q4_0"].ftype).types
    base, model = _base(folder, RoundingPlan(F16, types))
    with torch.no_grad():
        model.base_model.model.model.layers[1].mlp.up_proj.lora_B["default"].weight.add_(0.5)
    with pytest.raises(InputError, match=r"blk.1.ffn_up.weight is not this model's weight"):
        base.check_against(GgufTensors(folder / "full.gguf"))


def test_experts_are_refused_by_name(models: dict[str, Path]) -> None:
    folder = models["mixtral"]
    types = dry_run(str(folder / "full.gguf"), QUANTS["Q4_0"].ftype).types
    with pytest.raises(InputError, match=r"mlp.experts.* no tensor of their own"):
        _base(folder, RoundingPlan(F16, types))
