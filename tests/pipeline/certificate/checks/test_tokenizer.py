"""A token is known by what is read as it, not by how a file spells it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.certificate import Finding
from engine.llama.model import Model
from pipeline.certificate.checks.tokenizer import compare_vocabularies
from pipeline.certificate.subject import Subject
from pipeline.tokenizers.reference import TokenizerReference, load_tokenizer_reference
from tests.pipeline.certificate.rewrite import rewrite

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # enum llama_token_type


@pytest.fixture
def reference(sound: dict[str, Subject]) -> TokenizerReference:
    subject = sound["gemma2"]
    return load_tokenizer_reference(subject.tokenizer_reference, subject.reference, None)


def vocabulary_of(file: Path, reference: TokenizerReference) -> Finding:
    with closing(Model(file, vocab_only=True)) as model:
        found = {one.name: one for one in compare_vocabularies(replace(reference, texts=()), model.vocab)}
    return found["tokenizer.vocabulary"]


@pytest.mark.parametrize(
    ("spelling", "kind", "status"),
    [
        ("  ", USER_DEFINED, "pass"),  # as llama.cpp's converter writes Gemma's
        ("   ", USER_DEFINED, "fail"),
        ("  ", NORMAL, "fail"),  # nothing would ever be read as it
        ("<x>", CONTROL, "fail"),
    ],
)
def test_an_added_token_of_spaces_is_spelled_as_it_is_typed(
    sound: dict[str, Subject],
    reference: TokenizerReference,
    tmp_path: Path,
    spelling: str,
    kind: int,
    status: str,
) -> None:
    tokens = [str(token) for token in reference.vocabulary]
    number = tokens.index("▁▁")
    types = np.full(len(tokens), NORMAL, np.int32)
    types[:3] = CONTROL
    tokens[number], types[number] = spelling, kind
    values = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    file = rewrite(sound["gemma2"].full, tmp_path / "other.gguf", values)
    found = vocabulary_of(file, reference)
    assert found.status == status, found
    assert found.figures["differ"] == (status == "fail")


def test_an_id_that_the_tokenizer_lacks_may_be_anything(
    sound: dict[str, Subject], reference: TokenizerReference
) -> None:
    hole: list[str | None] = [*reference.vocabulary]
    hole[300] = None
    assert vocabulary_of(sound["gemma2"].full, replace(reference, vocabulary=hole)).status == "pass"
