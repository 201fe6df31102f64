from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import SamplingParams
from engine.errors import RequestError
from engine.prompt.truncation import Window, split_turns, truncate
from engine.serving.backend import LlamaBackend
from engine.types import Message, MessagesDropped, Role
from tests.engine.helpers import GREEDY, ask, text_of, user

FRAME = 3


def _tokens(messages: Sequence[Message]) -> list[int]:
    return [0] * sum(len(m["content"]) + FRAME for m in messages)


class Letters:
    """A prompt builder with a token for each letter, and a frame around each message."""

    def __init__(self) -> None:
        self.rendered = 0  # the most messages that were rendered at once

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        self.rendered = max(self.rendered, len(messages))
        return _tokens(messages)

    def measure(self, text: str, limit: int) -> int:
        return min(len(text), limit + 1)

    def overhead(self, limit: int) -> int:
        return 0


def _fit(messages: Sequence[Message], room: int) -> Window:
    return truncate(messages, room, Letters())


def test_what_is_far_too_long_is_never_rendered_as_a_whole() -> None:
    chat, letters = _chat([20, 20] * 5000 + [20], system=10), Letters()
    window = truncate(chat, 150, letters)
    assert letters.rendered == len(window.messages) <= 8 and window.messages[-1] == chat[-1]
    assert window.dropped is not None and window.dropped.messages == len(chat) - len(window.messages)
    assert window.dropped.tokens > 190_000
    # the same turns stay as for a chat that is short enough to be rendered
    short = _fit(_chat([20, 20] * 5 + [20], system=10), 150)
    assert len(short.messages) in (len(window.messages), len(window.messages) + 2, len(window.messages) - 2)


def _chat(lengths: Sequence[int], system: int = 0) -> list[Message]:
    """Return an optional system message, then user and assistant alternating; each repeats another letter."""
    messages: list[Message] = [{"role": "system", "content": "s" * system}] if system else []
    roles: tuple[Role, Role] = ("user", "assistant")
    return messages + [
        {"role": roles[n % 2], "content": chr(97 + n % 26) * length} for n, length in enumerate(lengths)
    ]


def test_what_fits_is_left_alone() -> None:
    chat = _chat([10, 10, 10], system=10)
    assert _fit(chat, 52) == Window(chat, _tokens(chat), None)


def test_the_oldest_turns_go_whole_and_the_system_prompt_and_the_question_stay() -> None:
    chat = _chat([20, 20] * 4 + [20], system=10)
    window = _fit(chat, 150)
    assert window.messages[0] == chat[0] and window.messages[-1] == chat[-1]
    assert window.messages[1:] == chat[-len(window.messages) + 1 :] and window.messages[1]["role"] == "user"
    gone = len(chat) - len(window.messages)
    assert gone % 2 == 0 and len(window.tokens) <= 150
    assert window.dropped == MessagesDropped(gone, gone * 23)


def test_a_drop_lasts_for_several_turns() -> None:
    lengths, firsts = [30], []
    for _ in range(40):
        window = _fit(_chat(lengths), 1000)
        firsts.append(window.dropped.messages if window.dropped else 0)
        assert len(window.tokens) <= 1000
        lengths += [60, 30]
    assert firsts == sorted(firsts) and firsts[-1] > 0, "what is gone does not come back"
    changes = sum(a != b for a, b in itertools.pairwise(firsts))
    assert changes <= 8, f"the prefix changed {changes} times in 40 turns"


def test_one_long_message_stays_even_if_it_does_not_fit() -> None:
    assert _fit(_chat([500]), 100).dropped is None
    window = _fit(_chat([10, 10, 500]), 100)
    assert [m["content"] for m in window.messages] == ["c" * 500] and window.dropped is not None


def test_a_greeting_belongs_to_the_first_turn() -> None:
    chat: list[Message] = [{"role": "assistant", "content": "hi"}, *_chat([1, 1, 1])]
    assert split_turns(chat) == [[0, 1, 2], [3]]


def test_a_continued_answer_keeps_its_turn_and_what_its_question_kept() -> None:
    asked = _chat([20, 20] * 4 + [20], system=10)
    kept = _fit(asked, 200).messages
    assert 4 <= len(kept) < len(asked)
    for begun, expected in ((5, kept), (120, [asked[0], asked[-1]])):
        last: Message = {"role": "assistant", "content": "a" * begun}
        window = _fit([*asked, last], 200)
        assert window.messages == [*expected, last] and len(window.tokens) <= 200


@given(st.lists(st.integers(0, 60), min_size=1, max_size=41), st.integers(0, 30), st.integers(60, 400))
def test_any_conversation_keeps_its_end_in_order(lengths: list[int], system: int, room: int) -> None:
    chat = _chat(lengths if len(lengths) % 2 else lengths[:-1] or [1], system)
    window = _fit(chat, room)
    rest = [m for m in chat if m["role"] != "system"]
    kept = [m for m in window.messages if m["role"] != "system"]
    assert kept and kept == rest[len(rest) - len(kept) :] and kept[0]["role"] == "user"
    assert len(window.tokens) <= room or len(kept) == 1
    assert [m for m in window.messages if m["role"] == "system"] == [m for m in chat if m["role"] == "system"]


def test_a_long_conversation_goes_on_with_its_prefix_reused(backend: LlamaBackend) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=8)
    chat: list[Message] = [{"role": "system", "content": "You are brief."}]
    drops, reused = [], 0
    for number in range(14):
        chat += user(f"Question {number}: " + "tell me about the sea and the wind. " * 14)
        stream = list(backend.stream(chat, sampling))
        first = stream[0]
        drops.append(first.messages if isinstance(first, MessagesDropped) else 0)
        assert first is stream[0] and text_of(stream)
        stats = stream[-1].stats  # type: ignore[union-attr]
        reused += stats.cached_tokens > stats.prompt_tokens // 3
        chat.append({"role": "assistant", "content": text_of(stream)})
    assert drops[0] == 0 < drops[-1] and drops == sorted(drops)
    assert reused >= 9, "most turns begin with what is cached"
    with pytest.raises(RequestError, match=r"start a new chat, or let the oldest turns go"):
        backend.stream(chat + user("And?"), replace(sampling, overflow="refuse"))


def test_a_message_that_cannot_fit_alone_names_the_excess(backend: LlamaBackend) -> None:
    chat = [*user("Hello"), {"role": "assistant", "content": "Hi."}, *user("word " * 1500)]
    with pytest.raises(RequestError, match=r"\d+ tokens too long"):
        backend.stream(chat, GREEDY)  # type: ignore[arg-type]
    assert ask(backend, user("Hello"), SamplingParams(temperature=0, max_tokens=3))[0]
