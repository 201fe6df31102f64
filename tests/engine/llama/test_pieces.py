"""Texts are tokenized in pieces, since llama.cpp crashes on some long ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFWriter

from engine.llama.tokenizer import MAX_CHARACTERS, split_for_tokenizer
from engine.serving.backend import LlamaBackend

END = "<|end|>"
READ = """
import sys, threading
from pathlib import Path
from engine.llama.model import Model
vocab = Model(Path(sys.argv[1]), vocab_only=True).vocab
read = lambda: print(len(vocab.tokenize("a" * 100_000 + "<|end|>", special=True)))
thread = threading.Thread(target=read)
thread.start()
thread.join()
"""


@pytest.mark.parametrize(
    "text", ["a" * 30_000, "word " * 6_000, "one line\n" * 3_000, " \n" * 9_000, "", "short"]
)
def test_no_piece_is_long_and_nothing_is_lost(text: str) -> None:
    cut = list(split_for_tokenizer(text, [END]))
    assert "".join(cut) == text and all(len(piece) <= MAX_CHARACTERS for piece in cut)


@pytest.mark.parametrize("before", range(MAX_CHARACTERS - len(END) - 1, MAX_CHARACTERS + 2))
def test_no_spelling_is_cut_in_two(before: int) -> None:
    assert (
        sum(
            piece.count(END)
            for piece in split_for_tokenizer("a" * before + END + "b" * MAX_CHARACTERS, [END])
        )
        == 1
    )


def test_ordinary_text_has_the_tokens_that_it_has_uncut(backend: LlamaBackend) -> None:
    text = 5 * Path(__file__).parents[1].joinpath("core", "test_scheduler.py").read_text(encoding="utf-8")
    vocab = backend._model.vocab
    assert len(text) > 3 * MAX_CHARACTERS and vocab.tokenize(text, special=True) == vocab._tokenize(
        text, True
    )


def test_one_long_word_does_not_end_the_process(tmp_path: Path) -> None:
    """Tekken's pattern (Mistral) uses the most stack per letter."""
    _letters(model := tmp_path / "letters.gguf")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(model)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "100001"), done.stderr[-300:]


def _letters(path: Path) -> None:
    """Write a GGUF with only a vocabulary: a, b, END."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken")
    writer.add_token_list(["a", "b", END])
    writer.add_token_types([1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
