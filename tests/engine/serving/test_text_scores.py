"""Log-probabilities of a text's tokens by the model that also answers."""

from __future__ import annotations

import numpy as np
import pytest

from engine.config import SamplingParams
from engine.errors import EngineError, PromptTooLong, RequestError
from engine.llama.text_scorer import Scores
from engine.process import messages as m
from engine.serving.backend import LlamaBackend
from engine.types import (
    AnswerToScore,
    Finished,
    Message,
    MessagesDropped,
    TextScores,
    TextToEmbed,
    TextToScore,
)
from tests.engine.helpers import text_of

TEXT = "The capital of France is"
LONG = "The harbour was quiet and the boats lay still. " * 10  # some pieces


def scores(backend: LlamaBackend, prompt: str | list[int], top: int = 1) -> TextScores:
    found, end = list(backend.stream(TextToScore(prompt, top)))
    assert isinstance(found, TextScores) and isinstance(end, Finished)
    assert end.reason == "length"
    assert end.stats.prompt_tokens == len(found.tokens) - 1 and end.stats.generated_tokens == 1
    return found


def test_every_token_has_its_probability_and_the_likeliest_one_follows(backend: LlamaBackend) -> None:
    found = scores(backend, TEXT, 3)
    assert "".join(found.tokens[:-1]) == TEXT
    assert found.tokens[-1] == text_of(
        list(backend.stream(TEXT, SamplingParams(temperature=0, max_tokens=1)))
    )
    assert found.log_probs[0] is None and found.likeliest[0] is None
    for token, log_prob, best in zip(found.tokens[1:], found.log_probs[1:], found.likeliest[1:], strict=True):
        assert log_prob is not None and best is not None
        assert len(best) == 3 and list(best.values()) == sorted(best.values(), reverse=True)
        assert log_prob <= max(best.values()) <= 0
        assert token not in best or best[token] == log_prob
    assert found.log_probs[-1] == max((found.likeliest[-1] or {}).values())


def test_a_wrong_end_is_less_likely(backend: LlamaBackend) -> None:
    beginning = len(scores(backend, TEXT).tokens) - 1
    paris, cabbage = (scores(backend, f"{TEXT} {word}").log_probs for word in ("Paris", "cabbage"))
    assert len(paris) == beginning + 2  # a token for the word, and the one that follows
    assert sum(paris[beginning:-1]) > sum(cabbage[beginning:-1]) + 3  # type: ignore[arg-type]


def test_a_text_of_several_pieces_begins_like_its_beginning(backend: LlamaBackend) -> None:
    long, short = scores(backend, LONG), scores(backend, LONG[:235])
    assert len(long.tokens) > 64 > len(short.tokens)
    count = len(short.tokens) - 2
    assert long.tokens[:count] == short.tokens[:count]
    # Batches of other sizes are rounded otherwise.
    difference = np.array(long.log_probs[1:count]) - np.array(short.log_probs[1:count])
    assert abs(difference).mean() < 0.05


def test_ids_are_taken_as_they_are(backend: LlamaBackend) -> None:
    ids = backend.prepare(TextToScore(TEXT), SamplingParams()).tokens
    assert scores(backend, ids) == scores(backend, TEXT)
    assert scores(backend, ids, 0).likeliest[1] == {}
    with pytest.raises(RequestError, match="999999 is no token of this model, which has 49152"):
        backend.stream(TextToScore([5, 999999]))
    with pytest.raises(RequestError, match=r"-1 is no token"):
        backend.stream(TextToScore([-1]))
    with pytest.raises(PromptTooLong, match="a prompt has 3000 tokens, and 1024 are the most"):
        backend.stream(TextToScore([5] * 3000))
    for nothing in ("", []):
        with pytest.raises(RequestError, match="the prompt is empty"):
            backend.stream(TextToScore(nothing))  # type: ignore[arg-type]


def test_embeddings_and_scores_take_turns(backend: LlamaBackend) -> None:
    alone = scores(backend, LONG)
    streams = [
        backend.stream(TextToScore(LONG, 1)) if n % 2 else backend.stream(TextToEmbed(LONG)) for n in range(2)
    ]
    kinds = [next(iter(stream)) for stream in streams]
    assert [type(kind).__name__ for kind in kinds] == ["EmbeddingVector", "TextScores"]
    assert kinds[1] == alone


class Spelled:
    """A vocabulary of four tokens, of which two are spelled alike and one is half a character."""

    def piece(self, token: int) -> bytes:
        return (b"a", b"b", b"b", b"\xc3")[token]


def test_tokens_of_one_spelling_keep_the_likelier_value() -> None:
    found = Scores(Spelled(), [0, 3], 3)  # type: ignore[arg-type]
    found.add(np.array([[0, 1, 2, -np.inf], [0, 0, 0, 9]], np.float32))
    event = found.event()
    assert event.tokens == ["a", "bytes:\\xc3", "bytes:\\xc3"]
    total = np.log(1 + np.e + np.e**2)
    assert event.likeliest[1] == pytest.approx({"b": 2 - total, "a": 0 - total})
    assert event.log_probs[1] == -9999.0
    with pytest.raises(EngineError, match="no finite numbers"):
        Scores(Spelled(), [0], 1).add(np.array([[0, np.nan, 0, 0]], np.float32))  # type: ignore[arg-type]


def test_scores_cross_the_pipe() -> None:
    for prompt in (TextToScore("a", 2), TextToScore([1, 2], 0)):
        sent = m.decode(m.encode(m.Ask(1, 0, m.sendable(prompt), SamplingParams())), m.COMMANDS)
        assert isinstance(sent, m.Ask) and sent.prompt == prompt
    assert m.sendable(TextToScore("\ud800", 1)) == TextToScore("?", 1)
    event = TextScores(["a", "b"], [None, -0.5], [None, {"b": -0.5}])
    back = m.decode(m.encode(m.Events(1, [event])), m.REPLIES)
    assert isinstance(back, m.Events) and back.events == [event]


CHAT: list[Message] = [
    {"role": "user", "content": "Name the capital of France."},
    {"role": "assistant", "content": "The capital of France is Paris."},
]


def answer_scores(backend: LlamaBackend, messages: list[Message], top: int = 2) -> TextScores:
    *dropped, found, end = list(backend.stream(AnswerToScore(messages, top)))
    assert isinstance(found, TextScores) and isinstance(end, Finished)
    assert all(isinstance(event, MessagesDropped) for event in dropped)
    return found


def test_an_answer_is_scored_after_its_question(backend: LlamaBackend) -> None:
    found = answer_scores(backend, CHAT)
    assert "".join(found.tokens[:-1]) == CHAT[1]["content"]
    assert len(found.tokens) == len(found.log_probs) == len(found.likeliest)
    assert all(log_prob is not None for log_prob in found.log_probs)
    # The same as the scores of the whole prompt's tokens.
    whole = scores(backend, backend.prompt_tokens(CHAT), 2)
    count = len(found.tokens)
    assert whole.tokens[-count:] == found.tokens
    difference = np.array(whole.log_probs[-count:]) - np.array(found.log_probs)
    assert abs(difference).max() < 0.05  # batches of other sizes are rounded otherwise


def test_the_likeliest_beginning_is_what_the_model_says(backend: LlamaBackend) -> None:
    said = text_of(
        list(backend.stream(CHAT[:1], SamplingParams(temperature=0, max_tokens=8, repeat_penalty=1)))
    )
    found = answer_scores(backend, [CHAT[0], {"role": "assistant", "content": said}])
    assert found.tokens[0] == max(found.likeliest[0] or {}, key=(found.likeliest[0] or {}).__getitem__)
    assert found.log_probs[0] == max((found.likeliest[0] or {}).values())


def test_a_long_conversation_loses_its_oldest_turns(backend: LlamaBackend) -> None:
    before: list[Message] = [
        {"role": role, "content": f"{number} {LONG}"} for number in range(6) for role in ("user", "assistant")
    ]
    dropped, found, _ = list(backend.stream(AnswerToScore(before + CHAT, 1)))
    assert isinstance(dropped, MessagesDropped) and dropped.messages >= 4
    assert isinstance(found, TextScores) and "".join(found.tokens[:-1]) == CHAT[1]["content"]


def test_what_is_no_answer_is_refused(backend: LlamaBackend) -> None:
    for messages in (CHAT[:1], CHAT[1:]):
        with pytest.raises(RequestError, match="there is no answer to score"):
            backend.stream(AnswerToScore(messages))
    with pytest.raises(PromptTooLong, match="the last turn has more than 1024 tokens"):
        backend.stream(AnswerToScore([CHAT[0], {"role": "assistant", "content": LONG * 20}]))
