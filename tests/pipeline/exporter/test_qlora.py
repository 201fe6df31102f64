"""An adapter that records QLoRA is exported with the base that it was trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import AutoTokenizer

from common.certificate import load_certificate
from engine.probe.cpu_backend import probe_model
from pipeline.certificate.checks.logits import tuned_model
from pipeline.certificate.scoring.samples import Sample
from pipeline.certificate.scoring.scorer import open_model
from pipeline.certificate.scoring.teacher_forcing import logits_of
from pipeline.certificate.subject import Subject
from pipeline.certificate.tensors.expected import expected_tensors
from pipeline.convert.job import ConvertJob
from pipeline.convert.worker import _merger
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import ExportResult, export
from pipeline.merge.nf4 import multiply_exactly
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.sources.trained_base import Nf4Rounding
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.test_nf4 import in_four_bits, rounded
from tests.pipeline.tiny import make_adapter

pytestmark = pytest.mark.slow

RECORD = {"quant_type": "nf4", "double_quant": True, "dtype": "bfloat16"}
BASE = "the base rounded to nf4 from bfloat16"


@pytest.fixture(scope="module")
def inputs(bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a base in float32, and an adapter that was trained on it in 4 bits from bfloat16."""
    base = bases("llama", vocab_size=32000)
    adapter = make_adapter(tmp_path_factory.mktemp("qlora") / "adapter", base)
    (adapter / "training.json").write_text(json.dumps({"options": {"qlora": RECORD}}))
    return base, adapter


@pytest.fixture(scope="module")
def result(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    out = tmp_path_factory.mktemp("out") / "bob"
    return export(config(inputs, out, quants=(), keep_f16=True, chat_template="alpaca", verify="fast"))


def config(inputs: tuple[Path, Path], out: Path, **options: Any) -> ExportConfig:
    return ExportConfig(str(inputs[0]), out, (str(inputs[1]),), **options)


def test_the_file_answers_as_the_trained_model(inputs: tuple[Path, Path], result: ExportResult) -> None:
    base, adapter = inputs
    trained = in_four_bits(base, torch.bfloat16)
    multiply_exactly(trained)
    trained = prepare_model_for_kbit_training(trained, use_gradient_checkpointing=False)  # norms in float32
    trained = PeftModel.from_pretrained(trained, str(adapter)).eval()
    ids = AutoTokenizer.from_pretrained(base).encode("Who are you, and what is 2 + 2?" * 4)
    with torch.inference_mode():
        expected = trained(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    full = result.paths[0]
    with open_model(full, probe_model(full, threads=1).choice) as model:
        [rows] = logits_of(model, [Sample(0, "", tuple(ids[:1]), tuple(ids[1:]), own=True)], 1)
    found = torch.from_numpy(rows).log_softmax(-1)
    kl = (expected[:-1].exp() * (expected[:-1] - found)).sum(-1).mean().item()
    assert kl < 1e-4
    unrounded = PeftModel.from_pretrained(_float_base(base), str(adapter)).eval()
    with torch.inference_mode():
        other = unrounded(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    far = (other[:-1].exp() * (other[:-1] - found)).sum(-1).mean().item()
    assert far > 10 * kl, "the base as it is would be another model"


def _float_base(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def test_it_is_said_and_checked_against_the_rounded_base(result: ExportResult) -> None:
    assert f"the adapter adapter was trained by QLoRA on {BASE}, and is merged into that" in result.notes
    manifest = json.loads(result.manifest.read_text())
    assert manifest["inputs"]["merged_into"] == f"{BASE}, as QLoRA saw it"
    certificate = load_certificate(result.folder / "certificate.json")
    assert certificate is not None
    assert certificate.inputs["merged_into"] == f"{BASE}, as QLoRA saw it"
    statuses = {finding.name: finding.status for finding in certificate.findings}
    assert statuses["weights.values"] == "pass"
    card = (result.folder / "README.md").read_text()
    assert "adapter merged into llama rounded to nf4 from bfloat16, as QLoRA saw it, as GGUF." in card


def test_the_checks_run_transformers_with_the_rounded_base(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = inputs
    adapters = (read_adapter(adapter_source(str(adapter))),)
    subject = Subject(
        reference=base,
        full=tmp_path / "no.gguf",
        scratch=tmp_path,
        threads=1,
        base=base_source(str(base)),
        adapters=adapters,
        rounding=Nf4Rounding("bfloat16"),
    )
    trained = PeftModel.from_pretrained(rounded(base, torch.bfloat16), str(adapter)).merge_and_unload()
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(tuned_model(subject).get_parameter(name), trained.get_parameter(name))
    assert not torch.equal(
        tuned_model(replace(subject, rounding=None)).get_parameter(name), trained.get_parameter(name)
    )
    expected = expected_tensors(subject).read(name)[0]
    assert np.array_equal(expected, trained.get_parameter(name).detach().numpy())


def test_the_bases_own_gguf_is_rounded_too(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """What survives of a tuning is measured from the base that was tuned."""
    source, rounding = base_source(str(inputs[0])), Nf4Rounding("bfloat16")
    job = ConvertJob(source, (), "f16", tmp_path / "base.gguf", "base", tmp_path, 1, rounding)
    merger = _merger(job)
    assert merger is not None
    name = "model.layers.1.mlp.down_proj.weight"
    merger.use(name)
    merger.finish()
    assert name in merger.changed
    assert torch.equal(merger.read(name).float(), rounded(inputs[0], torch.bfloat16).get_parameter(name))


def test_a_contradiction_is_refused_before_anything_is_written(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = make_adapter(tmp_path / "plain", inputs[0])
    (plain / "training.json").write_text(json.dumps({"options": {"qlora": None}}))
    with pytest.raises(
        InputError, match=r"^--qlora-base nf4 contradicts the adapter '.*plain', which was train"
    ):
        export(config((inputs[0], plain), tmp_path / "out" / "bob", qlora_base="nf4"))
    assert not (tmp_path / "out").exists()
