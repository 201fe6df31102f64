"""The probabilities of an answer's tokens, found after it was written, and what else was likely there."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import SamplingParams
from engine.serving.protocols import ChatBackend
from engine.types import AnswerToScore, Message, MessagesDropped, TextScores
from ui.generation.sessions import ActiveStreams
from ui.models.registry import start_stream

CHOICES = 5  # of the likeliest tokens at each place
_BYTE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class Choice:
    """A token that could stand at a place, with its probability.

    A `part` of a character is spelled in hexadecimal, and cannot be gone on from.
    """

    text: str
    probability: float
    part: bool = False


@dataclass(frozen=True)
class Token:
    """A token of the answer and the likeliest tokens at its place.

    `text` is what it adds to the answer: "" for the first bytes of a character. `whole`: characters end
    before it, so that another token can stand there.
    """

    text: str
    probability: float
    whole: bool
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer's tokens; `dropped` messages of its conversation were left out, as it is too long."""

    tokens: tuple[Token, ...]
    dropped: int = 0


async def score_answer(
    backend: ChatBackend, messages: Sequence[Message], live: ActiveStreams, session: str
) -> ScoredAnswer | None:
    """Score the answer that ends a conversation; None if the session's streams are cancelled meanwhile.

    Raises EngineError.
    """
    asked = AnswerToScore(list(messages), CHOICES)
    stream = await start_stream(backend, asked, SamplingParams())
    found, dropped = None, 0
    with live.track(session, stream):
        async for event in stream:
            if isinstance(event, MessagesDropped):
                dropped = event.messages
            elif isinstance(event, TextScores):
                found = event
    return None if found is None else ScoredAnswer(tokens_of(found, messages[-1]["content"]), dropped)


def tokens_of(scores: TextScores, answer: str) -> tuple[Token, ...]:
    """Return the tokens of an answer's scores, without the one that would follow.

    Some tokenizers begin a text with a space, which the answer does not have.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found: list[Token] = []
    for spelling, log_prob, best in zip(scores.tokens[:-1], scores.log_probs, scores.likeliest, strict=False):
        begun = bool(decoder.getstate()[0])
        skip_space = not found and not answer.startswith(" ")
        text = _without_space(decoder.decode(_raw(spelling)), skip_space)
        choices = (_choice(other, chance, skip_space) for other, chance in (best or {}).items())
        found.append(Token(text, math.exp(log_prob or 0.0), not begun, tuple(choices)))
    return tuple(found)


def _choice(spelling: str, log_prob: float, skip_space: bool) -> Choice:
    raw, chance = _raw(spelling), math.exp(log_prob)
    try:
        return Choice(_without_space(raw.decode("utf-8"), skip_space), chance)
    except UnicodeDecodeError:
        return Choice(raw.hex(" "), chance, part=True)


def _without_space(text: str, skip: bool) -> str:
    return text.removeprefix(" ") if skip else text


def _raw(spelling: str) -> bytes:
    """Return a token's bytes, of which a part of a character is spelled as in `TextScores`."""
    if spelling.startswith("bytes:\\x"):
        return bytes(int(digits, 16) for digits in _BYTE.findall(spelling))
    return spelling.encode()
