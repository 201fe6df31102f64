"""Long texts: cut without changing a token, and refused without being read to their end."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.tiny_gguf import Vocabulary, vocabulary, write_model
from engine.config import EngineConfig, SamplingParams
from engine.errors import RequestError
from engine.llama.model import Model
from engine.llama.tokenizer import MAX_CHARACTERS
from engine.serving.backend import LlamaBackend
from engine.types import Message

WORDS = ["hello", "he", "ll", "hell", "a", "é", "日本", "😀", "x" * 30, "ha\nha", "<|im_end|>"]


def rich_vocabulary() -> Vocabulary:
    """SentencePiece with words that carry their space, as real vocabularies have."""
    words = vocabulary("llama")
    more = ["▁h", "▁he", "▁hell", "▁hello", "▁a", "lo", "▁x", "xx", "xxxx", "▁▁"]
    return Vocabulary(
        words.tokens + more, words.types + [1] * len(more), words.scores + [-float(n) / 8 for n in range(10)]
    )


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("spm") / "spm.gguf", words=rich_vocabulary())


@pytest.fixture(scope="module")
def backend(spm: Path) -> Iterator[LlamaBackend]:
    with LlamaBackend.open(spm, EngineConfig(context=512, slots=1, threads=1, speculation=False)) as backend:
        yield backend


@pytest.mark.parametrize("special", [False, True])
def test_sentencepiece_gives_the_same_tokens_in_pieces(spm: Path, special: bool) -> None:
    draw = random.Random(1)
    text = " ".join(draw.choice(WORDS) for _ in range(9000))
    assert len(text) > 3 * MAX_CHARACTERS
    vocab = Model(spm, vocab_only=True).vocab
    assert vocab.tokenize(text, special=special) == vocab._tokenize(text, special)


def test_a_text_that_took_quadratic_time_takes_linear_time(spm: Path) -> None:
    vocab = Model(spm, vocab_only=True).vocab

    def cpu_seconds(text: str) -> float:
        began = time.thread_time()
        vocab.tokenize(text, special=True)
        return time.thread_time() - began

    turn = "<|im_start|>user\nhi<|im_end|>\n"
    few, many = cpu_seconds(turn * 1000), cpu_seconds(turn * 8000)
    assert many < 24 * few + 0.5  # quadratic: 64 times


def messages(*texts: str) -> list[Message]:
    return [{"role": "user", "content": text} for text in texts]


def answers(*texts: str) -> list[Message]:
    """Return a last turn of many messages."""
    return [*messages("hello"), *({"role": "assistant", "content": text} for text in texts), *messages("x")][
        :-1
    ]


@pytest.mark.parametrize(
    "chat",
    [
        messages("a" * 400_000),
        messages("\n" * 400_000),
        messages("😀" * 100_000),
        messages(" a" * 2_000_000),
        messages("<|im_end|>" * 40_000),
        answers(*["a"] * 16_000),
        [{"role": "system", "content": "a " * 200_000}, *messages("hello")],
    ],
    ids=["letter", "lines", "emoji", "a full body", "control tokens", "many messages", "system"],
)
@pytest.mark.parametrize("overflow", ["drop", "refuse"])
def test_what_is_far_too_long_is_refused_before_it_is_read(
    backend: LlamaBackend, chat: list[Message], overflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    tokenize = type(backend._model.vocab)._tokenize

    def counted(self: object, text: str, special: bool) -> list[int]:
        read.append(len(text))
        return tokenize(self, text, special)  # type: ignore[arg-type]

    monkeypatch.setattr(type(backend._model.vocab), "_tokenize", counted)
    sampling = SamplingParams(overflow=overflow)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"far too long|more than"):
        backend.prepare(chat, sampling)
    assert sum(read) <= 2 * MAX_CHARACTERS, "one piece tells"


def test_a_long_conversation_of_short_messages_keeps_its_end(backend: LlamaBackend) -> None:
    chat = [turn for _ in range(8000) for turn in (*messages("hi"), {"role": "assistant", "content": "ho"})]
    began = time.thread_time()
    prompt = backend.prepare([*chat, *messages("hello")], SamplingParams())  # type: ignore[list-item]
    assert prompt.dropped is not None and 300 < len(prompt.tokens) < 512
    assert time.thread_time() - began < 5  # it was minutes
