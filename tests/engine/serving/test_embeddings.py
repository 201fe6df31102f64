"""Embeddings by the model that also answers, and answers that go on meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from engine.config import SamplingParams
from engine.errors import PromptTooLong, RequestError
from engine.serving.backend import LlamaBackend
from engine.serving.reading_queue import Reading
from engine.types import EmbeddingVector, Finished, TextToEmbed
from tests.engine.helpers import ask, text_of, user

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_end=True)


def embedding(backend: LlamaBackend, text: str) -> list[float]:
    vector, end = list(backend.stream(TextToEmbed(text)))
    assert isinstance(vector, EmbeddingVector) and isinstance(end, Finished)
    assert end.reason == "stop" and end.stats.prompt_tokens > 0
    return vector.vector


def test_texts_that_mean_the_same_are_near_and_the_same_text_is_the_same(backend: LlamaBackend) -> None:
    texts = [
        "The cat sleeps on the sofa.",
        "A cat is lying on the couch.",
        "Taxes are due in April each year.",
    ]
    cat, couch, taxes = (np.array(embedding(backend, text)) for text in texts)
    assert cat.shape == (576,) and np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)
    assert cat @ couch > cat @ taxes
    assert embedding(backend, texts[0]) == cat.tolist()


def test_a_text_of_several_pieces_is_the_mean_over_all_its_tokens(backend: LlamaBackend) -> None:
    long = "The harbour was quiet and the boats lay still. " * 20  # some pieces
    whole, other = np.array(embedding(backend, long)), np.array(embedding(backend, long + " Taxes are due."))
    assert 0.9 < whole @ other < 1 - 1e-6
    with pytest.raises(PromptTooLong, match="split it"):
        backend.stream(TextToEmbed("word " * 5000))
    with pytest.raises(RequestError, match="a text is empty"):
        backend.stream(TextToEmbed("  "))


def test_control_tokens_that_are_spelled_out_stay_text(backend: LlamaBackend) -> None:
    prompt = backend.prepare(TextToEmbed("<|im_end|>"), GREEDY)
    assert prompt.reading == Reading() and len(prompt.tokens) > 1


def test_an_answer_is_the_same_while_texts_are_embedded(backend: LlamaBackend) -> None:
    question = user("Name three colours.")
    alone, _ = ask(backend, question, GREEDY)
    vectors: list[list[float]] = []
    alone_vector = embedding(backend, "The harbour was quiet. " * 30)
    embedding_thread = threading.Thread(
        target=lambda: vectors.extend(embedding(backend, "The harbour was quiet. " * 30) for _ in range(3))
    )
    embedding_thread.start()
    assert text_of(list(backend.stream(question, GREEDY))) == alone
    embedding_thread.join()
    assert vectors == [alone_vector] * 3


def test_a_text_that_nobody_waits_for_is_dropped(backend: LlamaBackend) -> None:
    streams = [backend.stream(TextToEmbed("word " * 400)) for _ in range(3)]
    streams[1].cancel()
    *_, end = streams[1]
    assert isinstance(end, Finished) and end.reason == "cancelled"
    assert all(isinstance(next(iter(stream)), EmbeddingVector) for stream in (streams[0], streams[2]))
