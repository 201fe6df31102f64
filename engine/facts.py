"""What a GGUF says about itself, as llama.cpp reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_cpp import llama_cpp as low

import shards
from engine.model import Model
from engine.recommended import recommended


@dataclass(frozen=True)
class ModelFacts:
    """What a GGUF says about itself. `control` and `ends` are spellings of tokens, `size` is in bytes.

    `adds_bos` tells whether a plain text gets a BOS, `recommended` how to sample (engine.recommended).
    """

    name: str
    architecture: str
    quantization: str
    parameters: int
    size: int
    trained_context: int
    template: str
    bos: str
    adds_bos: bool
    eos: str
    control: tuple[str, ...]
    ends: tuple[str, ...]
    recommended: Mapping[str, float]


def facts_of(model: Model, path: Path) -> ModelFacts:
    """Those of an open model, perhaps of its vocabulary alone; `path` is its file, or its first shard."""
    vocab, handle = model.vocab, model.handle
    architecture = model.metadata("general.architecture")
    template = low.llama_model_chat_template(handle, None) or b""
    return ModelFacts(
        name=model.metadata("general.name") or path.stem,
        architecture=architecture,
        quantization=_label(model.metadata("general.file_type")),
        parameters=int(low.llama_model_n_params(handle)),
        size=shards.size(path),
        trained_context=int(model.metadata(f"{architecture}.context_length") or 0),
        template=template.decode("utf-8", "replace"),
        bos=vocab.text(vocab.bos),
        adds_bos=vocab.add_bos,
        eos=vocab.text(vocab.eos),
        control=tuple(vocab.control_spellings),
        ends=tuple(vocab.text(t) for t in range(vocab.size) if vocab.is_end(t)),
        recommended=recommended(model.metadata),
    )


def _label(file_type: str) -> str:
    """`Q4_K_M` for the metadata's file type 15, which llama.cpp itself calls "Q4_K - Medium"."""
    if not file_type.isdigit():
        return "unknown"
    name = (low.llama_ftype_name(int(file_type)) or b"unknown").decode()
    for size in ("Small", "Medium", "Large"):
        name = name.replace(f" - {size}", f"_{size[0]}")
    return name
