"""Whether there are enough chats to calibrate with, seen before a model is converted for minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.dataset import Chat, render
from pipeline.errors import InputError
from pipeline.source import Source, read_json

CHUNK = 512
"""Tokens that are read together, as llama-imatrix does by default."""
_PLENTY = 16 * CHUNK
"""In characters: so many are a chunk for any tokenizer, and loading one would cost seconds."""
_SURELY = 0.75
"""The GGUF's tokenizer counts in the end, and an adapter may bring another template than the base's."""


def too_few(name: str, tokens: int, chunk: int) -> InputError:
    """The error for chats of the file `name` that fill no chunk."""
    return InputError(f"--calibrate {name} is {tokens} tokens long and {chunk} are needed: add chats")


def refuse_too_few(name: str, chats: Sequence[Chat], base: Source) -> None:
    """Raise InputError where the chats of the file `name` surely fill no chunk."""
    if sum(len(turn.content) for chat in chats for turn in chat.turns) >= _PLENTY:
        return
    tokenizer = _tokenizer(base)
    if tokenizer is None:
        return
    ids = (tokenizer.encode(render(tokenizer, chat), add_special_tokens=False) for chat in chats)
    tokens = sum(map(len, ids))
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    chunk = min(CHUNK, int(config.get("max_position_embeddings") or CHUNK))
    if tokens < _SURELY * chunk:
        raise too_few(name, tokens, chunk)


def _tokenizer(base: Source) -> Any:
    """The base's tokenizer; None where it cannot be read or has no chat template, which others tell."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return tokenizer if tokenizer.chat_template else None
