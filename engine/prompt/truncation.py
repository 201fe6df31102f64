"""A conversation that outgrew its context loses its oldest turns, whole, and always the same ones.

A drop changes the beginning of the prompt, so that nothing of the cache can be used again. So a drop makes
room for several turns at once, and what was dropped is worked out by going through the conversation turn by
turn, as it grew: the next turn comes to the same result without anyone having remembered it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from engine.errors import RequestError
from engine.types import Message, MessagesDropped

_LOW_WATER = 2 / 3  # of the room is what a drop leaves full
_FRAME = 8  # tokens that a template puts around a message; too many are better than too few


@dataclass(frozen=True)
class Window:
    """The messages that stay, their prompt's tokens, and what was dropped, if anything was."""

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

    System messages and the last turn always stay, so the result may still be too long. `tokenize` gives the
    whole prompt of messages, `measure` the number of tokens of a text alone.
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
    """All messages, where none may be dropped. Raises RequestError when they have more tokens than `room`."""
    if len(tokens) > room:
        raise RequestError(
            f"the conversation has {len(tokens)} tokens, and {room} are the most that leave an answer its "
            "room: start a new chat, or let the oldest turns go"
        )
    return Window(list(messages), tokens, None)


def split_turns(messages: Sequence[Message]) -> list[list[int]]:
    """Indices of each turn's messages, without the system's: a user's message and all up to the next one.

    What an assistant says before the first question belongs to the first turn.
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
    """The first turn that stays, where each turn is (tokens until it is answered, tokens with its answer).

    Goes through the conversation as it grew: when a question no longer fitted, turns went until what was
    left filled no more than two thirds of the room.
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
