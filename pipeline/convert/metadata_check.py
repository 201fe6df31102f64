"""Check the metadata that llama.cpp's converter is about to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.sources.model_source import Source
from pipeline.sources.reading import shown
from pipeline.tokenizers.diagnose import beyond_rows, tokenizer_fault

_MAX_LIST = 4096
"""Longer lists are the vocabulary's, which the converter itself makes."""


def check_metadata(writer: Any, base: Source, folder: Path) -> None:
    """Raise InputError for a value that its GGUF type cannot hold, and for tokens without embeddings.

    `writer` is the converter's GGUFWriter, and `folder` has the tokenizer that was converted.
    """
    values = {key: value for part in writer.kv_data for key, value in part.items()}
    for key, value in values.items():
        if isinstance(value.value, list) and len(value.value) > _MAX_LIST:
            continue
        try:
            writer._pack_val(value.value, value.type, add_vtype=True, sub_type=value.sub_type)
        except Exception as error:
            raise InputError(
                f"the base model in {base.folder} gives {key} = {shown(value.value)}, which a GGUF cannot "
                f"hold ({error}): correct that value in its config.json or generation_config.json"
            ) from error
    tokens, rows = values.get("tokenizer.ggml.tokens"), _embedding_rows(writer)
    count = len(tokens.value) if tokens is not None else 0
    if rows is None or count == rows:
        return
    fault = beyond_rows(base, folder) or tokenizer_fault(folder)
    if fault is None:
        found = f"{count} tokens" if count else "no tokens"
        fault = (
            f"the tokenizer of the base model {base.spec!r} has {found} for llama.cpp, and the embeddings "
            f"have {rows} rows: use the tokenizer files of the original model"
        )
    raise InputError(fault.replace(str(folder), str(base.folder)))


def _embedding_rows(writer: Any) -> int | None:
    """Return the number of rows of the token embeddings; None without them."""
    for shard in writer.tensors:
        if "token_embd.weight" in shard:
            return int(shard["token_embd.weight"].shape[0])
    return None
