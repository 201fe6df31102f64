"""The expected tensors of a tuned model: tied outputs, LoRA scales, and tied embeddings."""

from __future__ import annotations

from pathlib import Path

from pipeline.certificate.subject import Subject
from pipeline.certificate.tensors.compare import is_tied
from pipeline.certificate.tensors.expected import expected_tensors, scaling
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.conftest import Bases
from tests.pipeline.tiny import make_adapter


def test_an_output_that_was_tied_and_tuned_is_one_of_its_own(bases: Bases, tmp_path: Path) -> None:
    base = bases("llama", tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["lm_head"])
    subject = Subject(
        reference=base,
        full=tmp_path / "none.gguf",
        scratch=tmp_path,
        threads=1,
        base=base_source(str(base)),
        adapters=(read_adapter(adapter_source(str(adapter))),),
    )
    tuned = expected_tensors(subject)
    assert "lm_head.weight" in tuned.names
    output, _ = tuned.read("lm_head.weight")
    assert (output != tuned.read("model.embed_tokens.weight")[0]).any()


def test_of_several_alphas_for_a_module_the_first_counts() -> None:
    config = {"lora_alpha": 8, "alpha_pattern": {"layers.0.mlp.up_proj": 4, "up_proj": 2}}
    assert scaling(config, "model.layers.0.mlp.up_proj", rank=4) == 1
    assert scaling(config, "model.layers.1.mlp.up_proj", rank=4) == 0.5
    assert scaling(config, "model.layers.1.mlp.down_proj", rank=4) == 2


def test_what_config_json_leaves_out_is_told_by_the_tensors() -> None:
    assert is_tied({}, ["model.embed_tokens.weight"])  # Gemma, whose class sets the default
    assert not is_tied({}, ["model.embed_tokens.weight", "lm_head.weight"])
    assert not is_tied({"tie_word_embeddings": False}, ["model.embed_tokens.weight"])
    assert not is_tied({"tie_word_embeddings": True}, ["lm_head.weight"])  # untied by the merge
