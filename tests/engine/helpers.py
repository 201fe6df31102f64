"""Helpers shared by the engine's tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from engine.config import SamplingParams
from engine.core.engine import Engine, Tagged
from engine.serving.backend import LlamaBackend
from engine.types import Event, Finished, Message, TextDelta

GREEDY = SamplingParams(temperature=0, repeat_penalty=1.0)


def run(engine: Engine, events: list[Tagged] | None = None) -> dict[int, list[Event]]:
    """Step until the engine is idle; return the events by request, after the given ones."""
    out: dict[int, list[Event]] = defaultdict(list)
    for request, event in events or []:
        out[request].append(event)
    while engine.busy:
        for request, event in engine.step():
            out[request].append(event)
    return out


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, TextDelta))


def reason(events: Sequence[Event]) -> str:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.reason


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def ask(
    backend: LlamaBackend, messages: list[Message], sampling: SamplingParams = GREEDY
) -> tuple[str, Finished]:
    """Ask a backend; return the answer's text and its last event."""
    events = list(backend.stream(messages, sampling))
    assert isinstance(events[-1], Finished)
    return text_of(events), events[-1]
