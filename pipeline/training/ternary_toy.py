"""A tiny untrained ternary Llama with a vocabulary made of a data set, to be trained from scratch."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import MissingPackage
from common.files import atomic_directory
from pipeline.data.reader import read_data
from pipeline.data.rows import Chat, Row
from pipeline.errors import InputError
from pipeline.sources.ternary import online_config

_SIZES = {
    "hidden_size": 256,  # a block of TQ1_0 and TQ2_0
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
_VOCABULARY = 1024
_ROLES = ("<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_ternary_toy(out: Path, data: str, seed: int = 42) -> Path:
    """Write the model to the new folder `out`; return it. Raises InputError.

    Its tokenizer is SentencePiece BPE with byte fallback, so that it reads any text, and ChatML its template.
    """
    if out.exists():
        raise InputError(f"--out {str(out)!r} exists already: choose another, or remove it")
    texts = list(_texts(read_data(data)))
    with atomic_directory(out) as folder:
        _write_tokenizer(folder, texts)
        _write_model(folder, seed)
    return out


def _texts(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield from (turn.content for turn in row.turns) if isinstance(row, Chat) else (row.text,)


def _write_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    try:
        from sentencepiece import SentencePieceTrainer
    except ImportError as error:
        raise MissingPackage("sentencepiece") from error
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts for line in text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=_VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        control_symbols=list(_ROLES),
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False, "special": True}
    pieces = ("<unk>", "<s>", "</s>", *_ROLES)
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": _ROLES[1],
        "pad_token": "</s>",
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(n): {"content": one, **special} for n, one in enumerate(pieces)},
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_model(folder: Path, seed: int) -> None:
    import torch
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokens = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokens.get_piece_size(),
        bos_token_id=1,
        eos_token_id=tokens.piece_to_id(_ROLES[1]),
        pad_token_id=2,
        tie_word_embeddings=True,
        **_SIZES,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.config.quantization_config = online_config(["lm_head"])
    model.save_pretrained(folder)
