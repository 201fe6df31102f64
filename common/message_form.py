"""How a chat template takes messages, found out by rendering marked ones.

Some templates want contents as lists of parts, some take a system message only at the beginning or not at
all, and some leave out what they do not expect: then nobody says anything in the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
DEVELOPER = "developer"  # OpenAI's newer name for system
Shaped = dict[str, Any]
"""A message as templates take it: its content is a text, or a list of parts."""

Render = Callable[[list[Shaped]], str]
"""Renders a conversation with a generation prompt; may raise anything for one that a template refuses."""


@dataclass(frozen=True)
class MessageForm:
    """How a template takes messages.

    The contents of the roles in `parts` are lists of parts, others texts. `system` says where a system
    message may be. `lost` are the roles of which a text does not reach the prompt; a template without a
    system role is no loss, since its texts are put into the user's.
    """

    parts: frozenset[str] = frozenset()
    system: Literal["anywhere", "first", "nowhere"] = "anywhere"
    lost: tuple[str, ...] = ()

    def shape(self, messages: Sequence[Mapping[str, Any]]) -> list[Shaped]:
        """Return the messages as the template takes them."""
        return [self.shape_one(message) for message in self.place_system(messages)]

    def place_system(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the messages with the system ones where the template takes them."""
        named = [{**m, "role": SYSTEM} if m["role"] == DEVELOPER else m for m in messages]
        late = any(m["role"] == SYSTEM for m in named[1:])
        if self.system == "anywhere" or (self.system == "first" and not late):
            return named
        return join_system(named) if self.system == "first" else merge_system(named)

    def shape_one(self, message: Mapping[str, Any]) -> Shaped:
        """Return one message with its content as a text or as a list of parts."""
        if message["role"] in self.parts and isinstance(message["content"], str):
            return {**message, "content": [{"type": "text", "text": message["content"]}]}
        return dict(message)


def join_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put all system messages together as the first message."""
    system, rest = _split_system(messages)
    return [{"role": SYSTEM, "content": system}, *rest]


def merge_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put system messages in front of the first user message, for templates without a system role."""
    system, rest = _split_system(messages)
    if not system:
        return rest
    for index, message in enumerate(rest):
        if message["role"] == USER:
            rest[index] = {**message, "content": f"{system}\n\n{message['content']}"}
            return rest
    return [{"role": USER, "content": system}, *rest]


def _split_system(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
    texts = [m["content"] for m in messages if m["role"] == SYSTEM]
    return "\n\n".join(filter(None, texts)), [m for m in messages if m["role"] != SYSTEM]


_TURNS = (USER, ASSISTANT, USER, ASSISTANT, USER)
_FORMS = tuple(
    map(
        frozenset,
        (
            (),
            (SYSTEM, USER, ASSISTANT),
            (USER,),
            (SYSTEM, USER),
            (ASSISTANT,),
            (SYSTEM, ASSISTANT),
            (USER, ASSISTANT),
            (SYSTEM,),
        ),
    )
)


def find_form(render: Render) -> MessageForm:
    """Return the form in which the most texts reach the prompt: texts if they do, else lists of parts.

    Raises what `render` raises when it refuses even a single question in every form.
    """
    best: tuple[tuple[int, ...], MessageForm] | None = None
    refusal: Exception | None = None
    for parts in _FORMS:
        try:
            score, form = _try_form(render, MessageForm(parts))
        except Exception as error:  # noqa: BLE001 - an untrusted template may raise anything
            refusal = refusal or error
            continue
        if best is None or score < best[0]:
            best = score, form
        if not any(score):
            break
    if best is None:
        assert refusal is not None
        raise refusal
    return best[1]


def _try_form(render: Render, form: MessageForm) -> tuple[tuple[int, ...], MessageForm]:
    """Return how much is lost in a form (0 everywhere if nothing is), and the form with what was found."""
    lost = set(lost_roles(render, form, [USER]))
    refused = False
    try:
        lost |= set(lost_roles(render, form, _TURNS))
    except Exception:  # noqa: BLE001 - some take one question only, and say so when there are more
        refused = True
    turns = (USER,) if refused else _TURNS
    system = _system_place(render, form, turns)
    found = MessageForm(form.parts, system, tuple(sorted(lost)))
    return (USER in lost, ASSISTANT in lost, refused, system == "nowhere"), found


def _system_place(
    render: Render, form: MessageForm, turns: Sequence[str]
) -> Literal["anywhere", "first", "nowhere"]:
    def takes(*conversations: Sequence[str]) -> bool:
        try:
            return not any(lost_roles(render, form, roles) for roles in conversations)
        except Exception:  # noqa: BLE001 - see _try_form
            return False

    if not takes([SYSTEM, USER], [SYSTEM, *turns]):
        return "nowhere"
    midway = [SYSTEM, SYSTEM, USER, ASSISTANT, SYSTEM, USER]
    if len(turns) == 1 or not takes(midway) or _is_an_answer(render, form, midway, 4):
        return "first"
    return "anywhere"


def _is_an_answer(render: Render, form: MessageForm, roles: Sequence[str], place: int) -> bool:
    """Return whether the system message at `place` reads as if the assistant had said it."""
    answered = [*roles[:place], ASSISTANT, *roles[place + 1 :]]
    try:
        texts = [render(marked_messages(each, form)) for each in (roles, answered)]
    except Exception:  # noqa: BLE001 - it refuses two answers in a row, so it knows system messages
        return False
    return _MARK.sub("", texts[0]) == _MARK.sub("", texts[1])


_MARK = re.compile(r"qz[a-z]+\d+[ab]")


def marked_messages(roles: Sequence[str], form: MessageForm) -> list[Shaped]:
    """Return a conversation of these roles, whose texts begin and end with marks of their own."""
    contents = (" and\n\n".join(_marks(role, number)) for number, role in enumerate(roles))
    return [
        form.shape_one({"role": role, "content": content})
        for role, content in zip(roles, contents, strict=True)
    ]


def _marks(role: str, number: int) -> tuple[str, str]:
    return f"qz{role}{number}a", f"qz{role}{number}b"


def lost_roles(render: Render, form: MessageForm, roles: Sequence[str]) -> list[str]:
    """Return the roles of marked messages that do not reach the prompt. Raises what `render` raises."""
    return [roles[place] for place in lost_places(render, form, roles)]


def lost_places(render: Render, form: MessageForm, roles: Sequence[str]) -> Iterator[int]:
    """Yield the places of the marked messages that do not reach the prompt. Raises what `render` raises."""
    text = render(marked_messages(roles, form)).casefold()
    for place, role in enumerate(roles):
        marks = _marks(role, place)
        whole = all(mark in text for mark in marks)
        # A list that is printed as such is not what the model was trained on.
        printed = role in form.parts and re.search(rf"['\"]text['\"]: ?['\"]{marks[0]}", text)
        if not whole or printed:
            yield place
