"""Embeddings that an adapter changes: tied or not, resized, or token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pipeline.errors import InputError
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.merging import (
    adapted,
    assembled,
    assert_equal,
    assert_equals_peft,
    distance,
    logits,
    merger_for,
    ours,
    pefts,
)
from tests.pipeline.tiny import make_adapter, resized

EMBEDDINGS: dict[str, dict[str, Any]] = {
    "lora on the input": {"target_modules": ["embed_tokens", "q_proj"]},
    "dora on the input": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "lora on the output": {"target_modules": ["lm_head", "q_proj"]},
    "rslora on both": {"target_modules": ["embed_tokens", "lm_head"], "use_rslora": True},
    "the input whole": {"modules_to_save": ["embed_tokens"]},
    "the output whole": {"modules_to_save": ["lm_head"]},
    "both whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "some tokens": {"trainable_token_indices": [1, 7, 300]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [1, 7], "lm_head": [2]}},
}
TIED = ("llama", "qwen2", "gemma3_text")


def untied(base: Path) -> Any:
    """Return the base with untied embeddings, as PEFT's warning demands before a merge."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    return model


@pytest.mark.parametrize("architecture", ["llama", "phi3", "mistral"])
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_embeddings_of_their_own(architecture: str, kind: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(architecture, tie_word_embeddings=False)
    options = EMBEDDINGS[kind]
    if architecture == "phi3" and "target_modules" in options:
        names = [name.replace("q_proj", "qkv_proj") for name in options["target_modules"]]
        options = {**options, "target_modules": names}
    assert assert_equals_peft(base, make_adapter(tmp_path / "adapter", base, **options)) > 0


@pytest.mark.parametrize("architecture", TIED)
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_tied_embeddings_become_what_was_trained(
    architecture: str, kind: str, bases: Bases, tmp_path: Path
) -> None:
    base = bases(architecture, tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base, **EMBEDDINGS[kind])
    trained = logits(adapted(base, adapter))
    assert distance(logits(assembled(base, merger_for(base, adapter))), trained) < 1e-5
    assert distance(logits(untied(base)), trained) > 1e-2


@pytest.mark.parametrize("kind", [kind for kind in EMBEDDINGS if "tokens" not in kind])
def test_embeddings_that_drift_apart_are_untied(kind: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base, **EMBEDDINGS[kind])
    merger = merger_for(base, adapter)
    assert merger.settings == {"tie_word_embeddings": False}
    assert merger.added == {"lm_head.weight"}
    expected = PeftModel.from_pretrained(untied(base), str(adapter)).merge_and_unload()
    assert_equal(ours(merger, base), pefts(expected), base)


TWINS: dict[str, dict[str, Any]] = {
    "some tokens": {"trainable_token_indices": [1, 7, 300]},
    "the input whole, for both": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "lora on the input, for both": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "nothing of the embeddings": {},
}


@pytest.mark.parametrize("kind", TWINS)
def test_embeddings_that_stay_equal_stay_tied(kind: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base, **TWINS[kind])
    merger = merger_for(base, adapter)
    assert (merger.settings, merger.added) == ({}, frozenset())
    trained = logits(adapted(base, adapter))
    assert distance(logits(assembled(base, merger)), trained) < 1e-5


def merged_resized(base: Path, adapter: Path, rows: int) -> Any:
    """Merge with PEFT into a base whose embeddings were resized first."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


RESIZED: dict[str, dict[str, Any]] = {
    "embeddings saved beside": {},
    "embeddings trained whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "lora on the embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("rows", [323, 384, 300])  # some added, padded to a multiple of 64, cut
@pytest.mark.parametrize("kind", RESIZED)
def test_a_resized_vocabulary(kind: str, rows: int, bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=False)
    adapter = resized(base, tmp_path / "adapter", rows, **RESIZED[kind])
    merger = merger_for(base, adapter)
    assert merger.settings == {"vocab_size": rows}
    assert merger.shapes["lm_head.weight"] == (rows, 64)
    assert_equal(ours(merger, base), pefts(merged_resized(base, adapter, rows)), base)


def test_a_resized_tied_vocabulary_stays_tied(bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=True)
    adapter = resized(base, tmp_path / "adapter", 330)
    merger = merger_for(base, adapter)
    assert merger.settings == {"vocab_size": 330}
    assert_equal(ours(merger, base), pefts(merged_resized(base, adapter, 330)), base)


def test_added_tokens_trained_one_by_one(bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=True)
    adapter = resized(base, tmp_path / "adapter", 322, False, trainable_token_indices=[5, 320, 321])
    merger = merger_for(base, adapter)
    assert merger.settings == {"vocab_size": 322}
    assert_equal(ours(merger, base), pefts(merged_resized(base, adapter, 322)), base)


def test_a_row_that_nobody_has_is_named(bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=False)
    resized(base, tmp_path / "adapter", 322, False, trainable_token_indices=[5, 321])
    merger = merger_for(base, tmp_path / "adapter")
    with pytest.raises(InputError, match=r"row 320 of .*embed_tokens.*save_embedding_layers=True"):
        merger.merge("model.embed_tokens.weight")


def test_embeddings_of_two_sizes_are_refused(bases: Bases, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = bases(tie_word_embeddings=False)
    resized(base, tmp_path / "adapter", 330)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.lm_head.weight"] = tensors["base_model.model.lm_head.weight"][:325].clone()
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"different vocabularies.*lm_head\.weight: 325"):
        merger_for(base, tmp_path / "adapter")
