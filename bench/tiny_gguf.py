"""Tiny GGUF models: random weights, and a vocabulary for each of llama.cpp's tokenizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, TokenType

CHATML = (
    "{% for m in messages %}{{'<|im_start|>'+m['role']+'\n'+m['content']+'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
KINDS = ("llama", "gpt2", "bert", "t5", "rwkv")
"""The values of tokenizer.ggml.model: SentencePiece, BPE, WordPiece, Unigram, RWKV."""
_SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
_WIDTH, _HIDDEN, _HEADS, _LAYERS, _CONTEXT = 64, 128, 4, 2, 512


@dataclass
class Vocabulary:
    """Tokens with their types and scores, by index; `extra` are further metadata of the tokenizer."""

    tokens: list[str]
    types: list[int]
    scores: list[float]
    extra: dict[str, Any] = field(default_factory=dict)


def vocabulary(kind: str) -> Vocabulary:
    """Return a vocabulary of one of `KINDS`, with a token for each byte or printable character."""
    letters = [chr(code) for code in range(0x21, 0x7F)]
    space = {"llama": ["▁"], "t5": ["▁"], "gpt2": ["Ġ", "Ċ"], "bert": [], "rwkv": []}[kind]
    words = {"bert": [f"##{letter}" for letter in letters]}.get(kind, ["he", "ll", "hell", "hello"])
    spelled = [*space, *letters, *words]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if kind in ("llama", "t5") else []
    tokens = [*_SPECIAL, *byte_tokens, *spelled]
    types = [
        TokenType.UNKNOWN,
        *[TokenType.CONTROL] * (len(_SPECIAL) - 1),
        *[TokenType.BYTE] * len(byte_tokens),
        *[TokenType.NORMAL] * len(spelled),
    ]
    scores = [0.0] * (len(_SPECIAL) + len(byte_tokens)) + [-1.0 - n for n in range(len(spelled))]
    extra = {"gpt2": {"merges": ["h e", "l l", "he ll", "hell o"]}}.get(kind, {})
    return Vocabulary(tokens, [int(one) for one in types], scores, extra)


def write_model(
    path: Path,
    kind: str = "llama",
    *,
    template: str = CHATML,
    words: Vocabulary | None = None,
    metadata: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write a model of the architecture `llama` to `path`, and return the path.

    `words` replaces the vocabulary of the kind. `metadata` are integers to set in place of the usual ones.
    """
    words = words or vocabulary(kind)
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(words.tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words.tokens)
    writer.add_token_scores(words.scores)
    writer.add_token_types(words.types)
    if "merges" in words.extra:
        writer.add_token_merges(words.extra["merges"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_add_bos_token(True)
    writer.add_chat_template(template)
    for name, value in (metadata or {}).items():
        writer.kv_data[0].pop(name, None)
        writer.add_uint32(name, value)
    random = np.random.default_rng(seed)
    for name, shape in _tensors(len(words.tokens)):
        ones = name.endswith("norm.weight")
        data = np.ones(shape) if ones else random.normal(0, 0.1, shape)
        writer.add_tensor(name, data.astype(np.float32))
    return _written(writer, path)


def _tensors(vocabulary_size: int) -> list[tuple[str, tuple[int, ...]]]:
    found: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (vocabulary_size, _WIDTH)),
        ("output.weight", (vocabulary_size, _WIDTH)),
        ("output_norm.weight", (_WIDTH,)),
    ]
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        found += [
            (f"{block}.{part}.weight", (_WIDTH, _WIDTH))
            for part in ("attn_q", "attn_k", "attn_v", "attn_output")
        ]
        found += [(f"{block}.{part}.weight", (_HIDDEN, _WIDTH)) for part in ("ffn_gate", "ffn_up")]
        found += [(f"{block}.ffn_down.weight", (_WIDTH, _HIDDEN))]
        found += [(f"{block}.{part}.weight", (_WIDTH,)) for part in ("attn_norm", "ffn_norm")]
    return found


def write_adapter(path: Path, *, width: int = _WIDTH, rank: int = 4, seed: int = 0) -> Path:
    """Write a LoRA adapter for `write_model`'s models, and return its path."""
    random = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(_LAYERS):
        for part, shape in (("a", (rank, width)), ("b", (width, rank))):
            name = f"blk.{layer}.attn_q.weight.lora_{part}"
            writer.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))
    return _written(writer, path)


def _written(writer: GGUFWriter, path: Path) -> Path:
    """Write the file and return its path."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
