"""Truncates conversations that outgrew their context, by whole turns and always in the same way.

A drop changes the beginning of the prompt and so invalidates the prefix cache. Therefore a drop makes room
for several turns at once, and is recomputed by replaying the conversation turn by turn: the next turn gives
the same result without any stored state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from engine.errors import RequestError
from engine.prompt.chat_template import text_of
from engine.types import Message, MessagesDropped

_LOW_WATER = 2 / 3  # share of the room that is still used after a drop
_FRAME = 8  # estimated tokens of the template per message, rather too many than too few


@dataclass(frozen=True)
class Window:
    """The remaining messages, their prompt's tokens, and what was dropped, if anything."""

    messages: list[Message]
    tokens: list[int]
    dropped: MessagesDropped | None


class Measures(Protocol):
    """What truncation needs of a PromptBuilder."""

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt of messages."""
        ...

    def measure(self, text: str, limit: int) -> int:
        """Return the number of tokens of a text without the template, or `limit + 1` if it has more."""
        ...

    def overhead(self, limit: int) -> int:
        """Return about how many tokens are in each prompt beside the messages', or `limit + 1` if more."""
        ...


def truncate(messages: Sequence[Message], room: int, prompts: Measures) -> Window:
    """Drop the oldest turns until the prompt has at most `room` tokens, or only the last turn is left.

    System messages and the last turn always stay, so the result may still be too long. A conversation of
    more than twice the room is not rendered as a whole; then the number of dropped tokens is an estimate.
    """
    turns = split_turns(messages)
    if len(turns) == 1:
        return Window(list(messages), prompts.tokens(messages), None)
    texts, always = [text_of(m) for m in messages], prompts.overhead(room)
    if len(messages) > room or sum(map(len, texts)) > room:
        measured = [prompts.measure(text, room) for text in texts]
    else:
        measured = []  # short enough to be rendered as a whole
    estimate = sum(measured) + always
    whole = prompts.tokens(messages) if estimate <= 2 * room else []
    if whole and len(whole) <= room:
        return Window(list(messages), whole, None)
    measured = measured or [prompts.measure(text, room) for text in texts]
    sizes = [size + _FRAME for size in measured]
    always += sum(size for size, m in zip(sizes, messages, strict=True) if m["role"] == "system") + _FRAME
    first = max(1, first_kept([_sizes(messages, turn, sizes) for turn in turns], room - always))
    kept = _keep(messages, turns[first:])
    while len(shorter := prompts.tokens(kept)) > room and first < len(turns) - 1:
        first += 1  # the sizes were estimates
        kept = _keep(messages, turns[first:])
    dropped = (len(whole) or estimate) - len(shorter)
    return Window(kept, shorter, MessagesDropped(len(messages) - len(kept), max(0, dropped)))


def keep_all(messages: Sequence[Message], tokens: list[int], room: int) -> Window:
    """Return all messages. Raises RequestError when they have more tokens than `room`."""
    if len(tokens) > room:
        raise too_long(room, len(tokens))
    return Window(list(messages), tokens, None)


def too_long(room: int, tokens: int | None = None) -> RequestError:
    """Return the error for a conversation of too many tokens, which may not lose its oldest turns."""
    return RequestError(
        f"the conversation has {tokens or f'more than {room}'} tokens, and {room} are the most that leave an "
        "answer its room: start a new chat, or let the oldest turns go"
    )


def last_turn(messages: Sequence[Message]) -> list[Message]:
    """Return what truncation always keeps: the system messages and the last turn."""
    return _keep(messages, split_turns(messages)[-1:])


def split_turns(messages: Sequence[Message]) -> list[list[int]]:
    """Return the message indices of each turn: a user message and all up to the next, without system ones.

    Assistant messages before the first question belong to the first turn.
    """
    turns: list[list[int]] = [[]]
    asked = False
    for index, message in enumerate(messages):
        if message["role"] == "system":
            continue
        if message["role"] == "user":
            if asked:
                turns.append([])
            asked = True
        turns[-1].append(index)
    return turns


def first_kept(turns: Sequence[tuple[int, int]], room: int) -> int:
    """Return the index of the first turn to keep; turns are (tokens of the question, with its answer).

    Replays the conversation: whenever a question did not fit, turns were dropped until the rest filled at
    most two thirds of the room.
    """
    first = 0
    past = [0, *accumulate(whole for _, whole in turns)]
    for now, (question, _) in enumerate(turns):
        if past[now] - past[first] + question <= room:
            continue
        while first < now and past[now] - past[first] + question > room * _LOW_WATER:
            first += 1
    return first


def _sizes(messages: Sequence[Message], turn: Sequence[int], sizes: Sequence[int]) -> tuple[int, int]:
    """Return the tokens of a turn's question, and of the whole turn; `sizes` are those of all messages."""
    here = [sizes[index] for index in turn]
    upto = next((n for n, index in enumerate(turn) if messages[index]["role"] == "user"), 0)
    return sum(here[: upto + 1]), sum(here)


def _keep(messages: Sequence[Message], turns: Sequence[Sequence[int]]) -> list[Message]:
    kept = {index for turn in turns for index in turn}
    return [m for index, m in enumerate(messages) if index in kept or m["role"] == "system"]
