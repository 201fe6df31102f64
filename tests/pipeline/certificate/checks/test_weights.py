"""The weights of files and checkpoints that were merged in bfloat16, on real weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.certificate import Finding
from ggufio.ggml import BF16, F16
from ggufio.ggml_reader import read_tensors, rounded_to
from pipeline.certificate.checks.weights import check_weights
from pipeline.certificate.subject import Subject
from pipeline.certificate.tensors.expected import plain_updates
from pipeline.progress import NoProgress
from pipeline.sources.model_source import base_source
from tests.pipeline.certificate.rewrite import copy, tensor_in_place


def values_of(subject: Subject) -> Finding:
    return {found.name: found for found in check_weights(subject, NoProgress())}["weights.values"]


def merged_checkpoint(subject: Subject, folder: Path, scale: float) -> Subject:
    """Return the subject with the checkpoint that a merge in bfloat16 leaves, and no adapter."""
    assert subject.base is not None
    shutil.copytree(subject.base.folder, folder)
    (file,) = folder.glob("*.safetensors")
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}
    for update in plain_updates(subject.adapters[0]):
        change = update.scale * scale * torch.from_numpy(update.up) @ torch.from_numpy(update.down)
        tensors[update.name] += change.to(torch.bfloat16)
    save_file(tensors, file)
    return replace(subject, base=base_source(str(folder)), adapters=())


@pytest.mark.parametrize(("scale", "status"), [(1.0, "pass"), (0.0, "fail"), (1.5, "fail"), (-1.0, "fail")])
def test_a_checkpoint_that_was_merged_in_bfloat16_is_no_false_alarm(
    real: Subject, tmp_path: Path, scale: float, status: str
) -> None:
    found = values_of(merged_checkpoint(real, tmp_path / "merged", scale))
    assert found.status == status, found
    if status == "pass":
        assert found.figures["rounded_before"] > 0
        assert "but for an earlier rounding to BF16" in found.summary


@pytest.mark.parametrize(("with_adapter", "status"), [(True, "pass"), (False, "fail")])
def test_a_file_of_a_merge_in_bfloat16_is_no_false_alarm(
    real: Subject, tmp_path: Path, with_adapter: bool, status: str
) -> None:
    source = real.full if with_adapter else real.full.with_name(f"{real.full.stem}-alone.gguf")
    file = copy(source, tmp_path / "narrow.gguf")
    for name, tensor in read_tensors(file).items():
        if tensor.type == F16:
            found = tensor_in_place(file, name)
            found[:] = rounded_to(found.astype("float32"), BF16)
    found = values_of(replace(real, full=file))
    assert found.status == status, found
