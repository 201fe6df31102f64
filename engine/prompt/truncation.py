"""Truncates conversations that outgrew their context, by whole turns and always in the same way.

A drop changes the beginning of the prompt and so invalidates the prefix cache. Therefore a drop makes room
for several turns at once, and is recomputed by replaying the conversation turn by turn: the next turn gives
the same result without any stored state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from engine.errors import RequestError
from engine.types import Message, MessagesDropped

_LOW_WATER = 2 / 3  # share of the room that is still used after a drop
_FRAME = 8  # estimated tokens of the template per message, rather too many than too few


@dataclass(frozen=True)
class Window:
    """The remaining messages, their prompt's tokens, and what was dropped, if anything."""

    messages: list[Message]
    tokens: list[int]
    dropped: MessagesDropped | None


def truncate(
    messages: Sequence[Message],
    room: int,
    tokenize: Callable[[Sequence[Message]], list[int]],
    measure: Callable[[str], int],
) -> Window:
    """Drop the oldest turns until the prompt has at most `room` tokens, or only the last turn is left.

    System messages and the last turn always stay, so the result may still be too long. `tokenize` returns the
    prompt of messages, `measure` the number of tokens of a text without the template.
    """
    tokens = tokenize(messages)
    turns = split_turns(messages)
    if len(tokens) <= room or len(turns) == 1:
        return Window(list(messages), tokens, None)
    base = sum(measure(m["content"]) + _FRAME for m in messages if m["role"] == "system") + _FRAME
    first = max(1, first_kept([_sizes(messages, turn, measure) for turn in turns], room - base))
    kept = _keep(messages, turns[first:])
    while len(shorter := tokenize(kept)) > room and first < len(turns) - 1:
        first += 1  # the sizes were estimates
        kept = _keep(messages, turns[first:])
    return Window(kept, shorter, MessagesDropped(len(messages) - len(kept), len(tokens) - len(shorter)))


def keep_all(messages: Sequence[Message], tokens: list[int], room: int) -> Window:
    """Return all messages. Raises RequestError when they have more tokens than `room`."""
    if len(tokens) > room:
        raise RequestError(
            f"the conversation has {len(tokens)} tokens, and {room} are the most that leave an answer its "
            "room: start a new chat, or let the oldest turns go"
        )
    return Window(list(messages), tokens, None)


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


def _sizes(
    messages: Sequence[Message], turn: Sequence[int], measure: Callable[[str], int]
) -> tuple[int, int]:
    sizes = [measure(messages[index]["content"]) + _FRAME for index in turn]
    upto = next((n for n, index in enumerate(turn) if messages[index]["role"] == "user"), 0)
    return sum(sizes[: upto + 1]), sum(sizes)


def _keep(messages: Sequence[Message], turns: Sequence[Sequence[int]]) -> list[Message]:
    kept = {index for turn in turns for index in turn}
    return [m for index, m in enumerate(messages) if index in kept or m["role"] == "system"]
